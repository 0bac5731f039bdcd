"""The figures of plans as a table."""

import math
from typing import Any

# What the table shows, and the heads of its columns.
COLUMNS = {
    "target": "target",
    "chips": "chips",
    "fits": "fits",
    "needed_gib": "GiB needed",
    "memory_gib": "of",
    "temporary_gib": "temporary",
    "encoder_gib": "encoder",
    "parameters_gib": "params",
    "optimizer_gib": "optim.",
    "ema_gib": "EMA",
    "bank_gib": "bank",
    "tflop": "TFLOP",
    "memory_traffic_gib": "GiB moved",
    "collective_gib": "GiB in collectives",
    "matrix_s": "matrix s",
    "memory_s": "memory s",
    "network_s": "network s",
    "compiler_s": "compiler s",
    "expected_s": "expected s",
    "images_per_s": "images/s",
    "days": "days",
    "plan_s": "planned in s",
}


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the figures of `planning.plan.plan` in Markdown; an unknown one is a dash."""
    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    for row in rows:
        lines.append([_cell(row.get(name)) for name in COLUMNS])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
