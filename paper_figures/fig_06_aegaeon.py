"""Figure 6: Scepsy against the prefill:decode splits of Aegaeon on 4 and 8 GPUs."""

import small
import style

if __name__ == "__main__":
    data, output = style.folders(__doc__ or "")
    small.draw(data, output, "aegaeon", "fig_06_aegaeon")
