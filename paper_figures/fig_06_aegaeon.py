"""Figure 6: Scepsy against each prefill:decode split of Aegaeon on 4 and 8 GPUs."""

import small
import style

if __name__ == "__main__":
    data, output = style.folders(__doc__ or "")
    small.draw(data, output, "aegaeon", "aegaeon", "fig_06_aegaeon")
