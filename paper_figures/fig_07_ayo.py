"""Figure 7: Scepsy against Ayo on user allocations, 4 and 8 GPUs."""

import small
import style

if __name__ == "__main__":
    data, output = style.folders(__doc__ or "")
    small.draw(data, output, "ayo", "fig_07_ayo")
