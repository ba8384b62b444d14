"""Intervals from PromQL: Prometheus, Thanos, Mimir or VictoriaMetrics remembers, the embedded store is a cache of it.

`source` asks when an interval is over, `queries` says what, `client` and `answers` carry it, `pages` puts the answers
together as the pages that the plugins showed, `conversion` makes of them what the Recorder would have, and `memories`
keeps there what is no interval.
"""
