import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from operators.cameras.frame_matching import NEVER, best_group


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=4).map(sorted), min_size=2, max_size=3))
def test_no_group_that_needs_one_of_its_frames_is_better(times):
    cameras = {str(i): ts for i, ts in enumerate(times)}
    group = best_group(cameras, dict.fromkeys(cameras, NEVER), 15)
    frames = {name: group.before[name] for name in group.members}

    def rank(chosen):
        at = [cameras[name][i] for name, i in chosen.items()]
        return len(at), -(max(at) - min(at))

    for choice in itertools.product(*([None, *range(len(ts))] for ts in times)):
        chosen = {name: i for name, i in zip(cameras, choice, strict=True) if i is not None}
        if not chosen.items() & frames.items() or -rank(chosen)[1] > 15:
            continue
        if all(i >= group.before[name] for name, i in chosen.items()):
            assert rank(chosen) <= rank(frames)
