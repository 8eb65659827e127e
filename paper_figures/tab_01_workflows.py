"""Table 1: the reference workflows."""

import style
import tables


def main() -> None:
    data, output = style.folders(__doc__ or "")
    frame = style.read(data, "workflows")
    columns = {
        "workflow": "workflow",
        "llm": "LLM",
        "kind": "kind",
        "calls_per_run": "calls per run",
        "parallelism": "in flight",
        "input_tokens": "input tokens",
        "output_tokens": "output tokens",
    }
    caption = "Workflows as generated: means per run and per call; in flight: mean calls at once while any is (nominal times)."
    tables.save(frame[list(columns)].rename(columns=columns), output, "tab_01_workflows", caption)


if __name__ == "__main__":
    main()
