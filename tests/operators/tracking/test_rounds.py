from operators.tracking.rounds import rounds


def test_rounds_take_one_of_every_stream():
    assert rounds([]) == []
    assert rounds(["a", "a", "b", "a", "b"]) == [[0, 2], [1, 4], [3]]
