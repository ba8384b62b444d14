"""vLLM's own page, as its releases write it: what is read of each engine, and what is refused."""

from __future__ import annotations

import pytest

from recommender.samples import RefusedSampleError
from recommender.vllm_pages import parse_vllm_page

BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


def histogram(name: str, labels: str, largest: int | None, buckets: tuple[int, ...] = BUCKETS) -> str:
    """Ten requests up to this size; none, where it is None."""
    lines = [f"# TYPE {name} histogram"]
    for bound in (*map(float, buckets), float("inf")):
        count = 0 if largest is None else 10 if bound >= largest else 4 if bound >= largest / 3 else 0
        lines.append(f'{name}_bucket{{{labels},le="{bound if bound < 1e300 else "+Inf"}"}} {count}.0')
    return "\n".join(lines) + "\n"


def newest(engine: str = "0", usage: float = 0.25, prompt: int | None = 700, answer: int | None = 90) -> str:
    """As 0.32 writes it, shortened."""
    labels = f'engine="{engine}",model_name="llama"'
    config = 'block_size="16",cache_dtype="auto",enable_prefix_caching="True",gpu_memory_utilization="0.92"'
    return (
        f"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{{{labels}}} {usage}\n"
        f"# TYPE vllm:prefix_cache_queries_total counter\nvllm:prefix_cache_queries_total{{{labels}}} 4000.0\n"
        f"vllm:prefix_cache_queries_created{{{labels}}} 1.7e+09\n"
        f"# TYPE vllm:prefix_cache_hits_total counter\nvllm:prefix_cache_hits_total{{{labels}}} 1000.0\n"
        f"# TYPE vllm:num_preemptions_total counter\nvllm:num_preemptions_total{{{labels}}} 3.0\n"
        f'vllm:cache_config_info{{{config},engine="{engine}",num_gpu_blocks="4096"}} 1.0\n'
        + histogram("vllm:request_prompt_tokens", labels, prompt)
        + histogram("vllm:request_generation_tokens", labels, answer)
    )


def test_the_newest_page() -> None:
    (sample,) = parse_vllm_page("process_nonsense NaN\n" + newest())
    assert (sample.engine, sample.blocks, sample.block_tokens, sample.usage) == ("0", 4096, 16, 0.25)
    assert (sample.queries, sample.hits, sample.preemptions) == (4000, 1000, 3)
    assert sample.largest_tokens == 1000 + 100
    assert sample.context_tokens == (2000, 5000)
    assert sample.shows_hits


def test_engines_of_one_server() -> None:
    first, second = parse_vllm_page(newest("0", 0.25) + newest("1", 0.75))
    assert (first.engine, first.usage, second.engine, second.usage) == ("0", 0.25, "1", 0.75)


def test_more_engines_than_a_server_can_have() -> None:
    with pytest.raises(RefusedSampleError, match="300 engines"):
        parse_vllm_page("".join(newest(str(engine)) for engine in range(300)))


def test_what_no_bucket_bounds_is_less_than_the_next_step() -> None:
    (sample,) = parse_vllm_page(newest(prompt=3000, answer=None))
    assert sample.largest_tokens == 5000


def test_a_page_before_the_first_request() -> None:
    (sample,) = parse_vllm_page(newest(prompt=None, answer=None))
    assert sample.largest_tokens == 0


V0 = """\
vllm:gpu_cache_usage_perc{model_name="llama"} 0.5
vllm:gpu_prefix_cache_hit_rate{model_name="llama"} 0.75
vllm:num_preemptions_total{model_name="llama"} 2.0
vllm:cache_config_info{block_size="16",enable_prefix_caching="True",num_gpu_blocks="2048",num_cpu_blocks="512"} 1.0
"""
BLOCKS_AS_UNIT = """\
vllm:gpu_cache_usage_perc{model_name="llama"} 0.5
vllm:gpu_prefix_cache_queries_total{model_name="llama"} 80.0
vllm:gpu_prefix_cache_hits_total{model_name="llama"} 20.0
vllm:cache_config_info{block_size="16",num_gpu_blocks="2048"} 1.0
"""


def test_pages_of_older_releases() -> None:
    (sample,) = parse_vllm_page(V0)
    assert (sample.engine, sample.usage, sample.hit_rate, sample.preemptions, sample.shows_hits) == (
        ("", 0.5, 0.75, 2, True)
    )
    (sample,) = parse_vllm_page(BLOCKS_AS_UNIT)
    assert (sample.queries, sample.hits, sample.hit_rate) == (80, 20, None)


def test_a_page_may_show_no_hits_at_all() -> None:
    line = next(line for line in V0.splitlines() if "hit_rate" in line)
    (sample,) = parse_vllm_page(V0.replace(line, ""))
    assert not sample.shows_hits
    (sample,) = parse_vllm_page(V0.replace(line, "").replace('caching="True"', 'caching="False"'))
    assert sample.shows_hits


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("", "has no vllm:cache_config_info"),
        ("<html>not here</html>", "has no vllm:cache_config_info"),
        (newest().replace('num_gpu_blocks="4096"', 'num_gpu_blocks="None"'), "has no vllm:cache_config_info"),
        (newest().replace('num_gpu_blocks="4096"', 'num_gpu_blocks="0"'), "has no vllm:cache_config_info"),
        (newest().replace('num_gpu_blocks="4096"', f'num_gpu_blocks="{"9" * 5000}"'), "has no vllm:cache_config_info"),
        (newest().replace('block_size="16"', 'block_size="0"'), "has no vllm:cache_config_info"),
        (V0.replace("0.75", "NaN"), "hit_rate is nan"),
        (V0.replace("0.75", "+Inf"), "hit_rate is inf"),
        (newest(usage=1.5), "shows no usage"),
        (newest().replace("kv_cache_usage_perc", "something"), "shows no usage"),
        (newest().replace(" 1000.0", " 5000.0"), "5000 hits of 4000 queries"),
        (newest().replace(" 3.0", " -3.0"), "which cannot be"),
        (newest().replace(" 3.0", " three"), "no Prometheus text"),
    ],
)
def test_nonsense_is_refused(page: str, reason: str) -> None:
    with pytest.raises(RefusedSampleError, match=reason):
        parse_vllm_page(page)
