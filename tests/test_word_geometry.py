import cv2
import numpy as np
import pytest

from training.word_geometry import InkBox, Pose, bend, look, pose_matrix, sample_pose, unbend

CENTRED = InkBox(40, 40, 120, 40)
NO_MARGINS = (0.0, 0.0, 0.0, 0.0)


def block(box: InkBox = CENTRED) -> np.ndarray:
    canvas = np.zeros((120, 200), np.uint8)
    canvas[int(box.top) : int(box.top + box.height), int(box.left) : int(box.left + box.width)] = 255
    return canvas


def test_a_straight_word_without_margins_fills_its_crop() -> None:
    view = look(CENTRED, Pose(), NO_MARGINS, 32, (8, 512))
    assert (view.height, view.width) == (32, 96)
    inner = view.warp(block())[1:-1, 1:-1]
    assert inner.min() == 255


def test_margins_are_measured_in_heights_of_ink() -> None:
    view = look(CENTRED, Pose(), (0.5, 0.25, 0.5, 0.25), 36, (8, 512))
    assert (view.height, view.width) == (36, 96)  # (0.5 + 3 + 0.5) / (0.25 + 1 + 0.25) of 36
    inked = view.warp(block()) > 127
    assert np.flatnonzero(inked.any(1)).tolist() == list(range(6, 30))
    assert np.flatnonzero(inked.any(0)).tolist() == list(range(12, 84))


def test_stretch_changes_the_width_only() -> None:
    assert look(CENTRED, Pose(stretch=0.5), NO_MARGINS, 32, (8, 512)).width == 48
    assert look(CENTRED, Pose(stretch=1.5), NO_MARGINS, 32, (8, 512)).width == 144


def test_width_stays_within_its_limits() -> None:
    assert look(CENTRED, Pose(), NO_MARGINS, 32, (8, 50)).width == 50
    assert look(InkBox(40, 40, 2, 40), Pose(), NO_MARGINS, 32, (12, 50)).width == 12


@pytest.mark.parametrize("curvature", [-0.6, -0.1, 0.1, 0.6])
def test_unbend_undoes_bend(curvature: float) -> None:
    rng = np.random.default_rng(0)
    pose = Pose(curvature=curvature, wave=(0.1, 1.3, 0.4))
    u, v = rng.uniform(-2, 2, 100), rng.uniform(-0.7, 0.7, 100)
    back_u, back_v = unbend(*bend(u, v, pose), pose)
    np.testing.assert_allclose(back_u, u, atol=1e-9)
    np.testing.assert_allclose(back_v, v, atol=1e-9)


def test_an_arched_baseline_is_a_circle() -> None:
    u = np.linspace(-2, 2, 30)
    x, y = bend(u, np.zeros(30), Pose(curvature=0.25))
    np.testing.assert_allclose(np.hypot(x, y - 4.0), 4.0)  # radius 1 / 0.25 around (0, 4)
    assert y.argmin() in (14, 15)  # highest in the middle


def test_a_quarter_turn_maps_right_to_down() -> None:
    x, y, depth = pose_matrix(Pose(rotation=90.0)) @ np.array([1.0, 0.0, 1.0])
    np.testing.assert_allclose([x, y, depth], [0.0, 1.0, 1.0], atol=1e-12)


def test_perspective_makes_one_end_smaller() -> None:
    view = look(CENTRED, Pose(perspective=(0.2, 0.0)), NO_MARGINS, 32, (8, 512))
    heights = (view.warp(block()) > 127).sum(0)
    assert heights[2] > 1.4 * heights[-3]


def test_the_warp_equals_sampling_point_by_point() -> None:
    rng = np.random.default_rng(1)
    canvas = cv2.GaussianBlur(rng.integers(0, 256, (120, 200), dtype=np.uint8), (0, 0), 3)
    pose = Pose(0.9, 0.1, 7.0, (0.05, 0.02), 0.15, (0.05, 1.0, 0.3))
    view = look(CENTRED, pose, (0.1, 0.1, 0.1, 0.1), 40, (8, 512))
    warped = view.warp(canvas)
    forward = pose_matrix(pose)
    for row, column in ((3, 5), (20, 40), (35, 60)):
        place = view.matrix @ np.array([column, row, 1.0])
        u, v = unbend(place[:1] / place[2], place[1:2] / place[2], pose)
        x, y = u * 40 + 100 - 0.5, v * 40 + 60 - 0.5
        value = cv2.remap(canvas, x.astype(np.float32)[None], y.astype(np.float32)[None], cv2.INTER_LINEAR)
        assert abs(int(warped[row, column]) - int(value[0, 0])) <= 1
        # And forward again: the bent point seen in the pose lies in the crop.
        seen = forward @ np.array([place[0] / place[2], place[1] / place[2], 1.0])
        assert np.isfinite(seen / seen[2]).all()


def test_several_layers_are_warped_as_one() -> None:
    canvas = block()
    view = look(CENTRED, Pose(rotation=5.0, curvature=0.1), NO_MARGINS, 32, (8, 512))
    together = view.warp(cv2.merge([canvas, canvas // 2]))
    # OpenCV interpolates one channel and several in different arithmetic.
    np.testing.assert_allclose(together[:, :, 0].astype(int), view.warp(canvas), atol=4)
    np.testing.assert_allclose(together[:, :, 1].astype(int), view.warp(canvas // 2), atol=4)


def test_poses_are_mostly_upright_and_long_words_never_turn_far() -> None:
    rng = np.random.default_rng(0)
    turns = np.array([abs(sample_pose(rng, 4.0).rotation) for _ in range(2000)])
    assert np.mean(turns < 15) > 0.9
    assert turns.max() <= np.rad2deg(np.arctan(1.3 / 4.0)) + 1e-9
    assert max(abs(sample_pose(rng, 1.0).rotation) for _ in range(2000)) > 25


def test_letters_never_reach_the_centre_of_their_arc() -> None:
    rng = np.random.default_rng(0)
    assert max(abs(sample_pose(rng, a).curvature) for a in (1.3, 3.0, 9.0) for _ in range(500)) < 1.0
