"""Table 4: what profiling by simulation costs."""

import style
import tables


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "profiling")
    columns = {"workflow": "workflow", "llms": "LLMs", "curves": "curves", "points": "points", "wall_s": "wall time (s)"}
    caption = "Profiling one workflow from nothing on one core, all degrees, shares and replicas; wall time where it ran."
    tables.save(frame[list(columns)].rename(columns=columns), output, "tab_04_profiling", caption)


if __name__ == "__main__":
    main()
