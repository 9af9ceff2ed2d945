"""The alerts of docs/alerts.yml, each with the series that should set it off. Prometheus's own tool evaluates them."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from documents import ROOT

ALERTS = ROOT / "docs/alerts.yml"
LIMIT = 60
FIRING = {  # alert -> after how many minutes, and the series: name and labels, and what is added each minute
    "FoliocachePoolUnreadable": (45, {'foliocache_pool_up{cache_name="a"}': "0x60"}),
    "FoliocacheReadsBypassThePool": (
        45,
        {
            'foliocache_bypasses_total{cache_name="a"}': "0+10x60",
            'cache_requests_total{cache_name="a",cache_request_type="miss",cache_tier="memory"}': "0+100x60",
            'cache_requests_total{cache_name="a",cache_request_type="miss",cache_tier="disk"}': "0+100x60",
        },
    ),
    "FoliocacheSourceFails": (
        45,
        {
            'foliocache_source_errors_total{cache_name="a",source="http",cache_tier="origin"}': "0+10x60",
            'foliocache_source_request_duration_seconds_count{cache_name="a",source="http",cache_tier="origin"}': "0+100x60",
        },
    ),
    "FoliocacheFillsStuck": (
        45,
        {'foliocache_waits_total{cache_name="a"}': "0+10x60", 'foliocache_fills_total{cache_name="a"}': "5x60"},
    ),
    "FoliocacheLockHolderStopped": (45, {'foliocache_stalls_total{cache_name="a"}': "0+1x60"}),
    "FoliocacheDeadClients": (45, {'foliocache_clients{cache_name="a",state="dead"}': "1x60"}),
    "FoliocacheTierOff": (45, {'foliocache_tier_skipped_total{cache_name="a",cache_tier="disk"}': "0+5x60"}),
    "FoliocachePoolTooSmall": (
        190,
        {
            'foliocache_refilled_units_total{cache_name="a",larger_by="25%"}': "0+50x200",
            'foliocache_filled_units_total{cache_name="a"}': "0+100x200",
        },
    ),
}
QUIET = {  # series of a pool that is well: no alert
    'foliocache_pool_up{cache_name="a"}': "1x200",
    'foliocache_bypasses_total{cache_name="a"}': "3x200",
    'cache_requests_total{cache_name="a",cache_request_type="miss",cache_tier="memory"}': "0+100x200",
    'foliocache_source_errors_total{cache_name="a",source="http",cache_tier="origin"}': "1x200",
    'foliocache_source_request_duration_seconds_count{cache_name="a",source="http",cache_tier="origin"}': "0+100x200",
    'foliocache_waits_total{cache_name="a"}': "0+10x200",
    'foliocache_fills_total{cache_name="a"}': "0+10x200",
    'foliocache_stalls_total{cache_name="a"}': "0x200",
    'foliocache_clients{cache_name="a",state="dead"}': "0x200",
    'foliocache_tier_skipped_total{cache_name="a",cache_tier="disk"}': "7x200",
    'foliocache_refilled_units_total{cache_name="a",larger_by="25%"}': "0+1x200",
    'foliocache_filled_units_total{cache_name="a"}': "0+100x200",
}


def case(series, minutes, alert, labels):
    lines = ["  - interval: 1m", "    input_series:"]
    for name, values in series.items():
        lines += [f"      - series: '{name}'", f"        values: '{values}'"]
    query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    samples = [f"          - labels: '{labels}'", "            value: 1"] if labels is not None else []
    lines += ["    promql_expr_test:", f"      - expr: '{query}'", f"        eval_time: {minutes}m"]
    return [*lines, "        exp_samples:" if samples else "        exp_samples: []", *samples]


def test_every_alert_has_its_series():
    assert set(FIRING) == set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool, which Debian's package prometheus has")
def test_alerts_fire_and_only_when_they_should(tmp_path):
    lines = [f"rule_files: [{ALERTS}]", "evaluation_interval: 1m", "tests:"]
    for alert, (minutes, series) in FIRING.items():
        lines += case(series, minutes, alert, "{}") + case(QUIET, 190, alert, None)
    (tmp_path / "rules.yml").write_text("\n".join(lines) + "\n")
    command = ["promtool", "test", "rules", str(tmp_path / "rules.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
