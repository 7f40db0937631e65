"""What the pipeline takes as the zoo grows: measured in miniature, extrapolated by a line."""

import pytest
import scale


@pytest.fixture(scope="module")
def result() -> dict:
    return scale.measure("miniature")


def test_operations_are_those_of_stable_diffusion(result):
    counts = result["operations"]
    # 0.80 trillion for its UNet at 512 pixels, as published counts have it: 402 billion products.
    assert counts["inversion"] == pytest.approx(2 * 0.80e12, rel=0.1)
    assert counts["picture"] == pytest.approx(100 * 0.80e12 + 2.5e12, rel=0.05)
    assert counts["training"] == pytest.approx(2 * counts["inversion"], rel=0.01)


def test_every_stage_is_measured_at_three_sizes(result):
    for name, sizes in scale.SIZES["miniature"].items():
        assert [run["size"] for run in result["runs"][name]] == list(sizes)
    assert all(run["cpu_seconds"] > 0 for run in result["runs"]["flatten"])


def test_costs_are_fitted_by_a_line():
    def line(size: int, seconds: float) -> dict:
        return {"size": size, "cpu_seconds": seconds}

    assert scale.fitted([line(10, 7), line(20, 9)]) == pytest.approx((5.0, 0.2))
    assert scale.fitted([line(10, 9), line(20, 7)])[1] == 0


def test_the_page_has_both_tables(result):
    page = scale.markdown(result)
    vectors = next(line for line in page.splitlines() if line.startswith("| vectors in float16"))
    assert vectors.endswith("| 0.4 | 13.0 | 199.3 |")
    assert sum(line.startswith("| streamed PCA") for line in page.splitlines()) == 1
    assert "nothing in this table ran at these sizes" in page
