"""Table 7: each public claim beside what this evaluation finds at the same cut."""

import style
import tables
from tab_03_ratios import interval


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "claims")
    frame = frame.assign(
        claimed=[f"{value:g} {unit}" for value, unit in zip(frame["claimed"], frame["unit"], strict=True)],
        found=[interval(v, low, high, True) for v, low, high in zip(frame["ours"], frame["low"], frame["high"], strict=True)],
    )
    columns = {
        "text": "claim", "source": "source", "claimed": "claimed", "found": "here [95 %]", "at": "where", "verdict": "verdict",
        "why": "reason",
    }  # fmt: skip
    caption = (
        "Public claims and what is found at the same cut. The GPU type, models, arrivals and fraction unit behind them "
        f"are not public. Scale: {frame['scale'].iloc[0]}."
    )
    tables.save(frame[list(columns)].rename(columns=columns), output, "tab_07_claims", caption)


if __name__ == "__main__":
    main()
