from operators.tracking.rounds import rounds


def test_a_round_has_at_most_one_item_of_each_stream():
    assert rounds([]) == []
    assert rounds(["a", "a", "b", "a", "b"]) == [[0, 2], [1, 4], [3]]
