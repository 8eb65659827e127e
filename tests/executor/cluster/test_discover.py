from typing import Any

import pytest

from executor.cluster.discover import discover
from executor.cluster.topology import nvlink_domains, read_links
from scepsy.errors import BackendError, InputError
from scepsy.profile import catalogue
from tests.executor.cluster.double import Double

HGX = "\t".join(["", *(f"GPU{i}" for i in range(4)), "NIC0", "CPU Affinity", "NUMA Affinity"]) + "\n"
PAIRS = (
    HGX
    + "GPU0\t X \tNV4\tSYS\tSYS\tPXB\t0-31\t0\nGPU1\tNV4\t X \tSYS\tSYS\tPXB\t0-31\t0\n"
    + "GPU2\tSYS\tSYS\t X \tNV4\tSYS\t32-63\t1\nGPU3\tSYS\tSYS\tNV4\t X \tSYS\t32-63\t1\nNIC0\tPXB\tPXB\tSYS\tSYS\t X\n"
    + "\nLegend:\n\n  X    = Self\n  NV#  = Connection traversing a bonded set of # NVLinks\n"
)


def test_topology() -> None:
    assert nvlink_domains(PAIRS) == ((0, 1), (2, 3))
    assert nvlink_domains("\x1b[4m" + PAIRS.replace("\n", "\x1b[0m\n", 1)) == ((0, 1), (2, 3))
    assert nvlink_domains("\tGPU0\tCPU Affinity\nGPU0\t X \t0-31\n") == ((0,),)


@pytest.mark.parametrize("text", ["", "nvidia-smi: command not found", PAIRS.replace("GPU3\tSYS", "GPU9\tSYS"), PAIRS[:80]])
def test_what_is_no_topology(text: str) -> None:
    with pytest.raises(InputError, match=r"^n1\.txt: "):
        nvlink_domains(text, "n1.txt")


def test_what_the_driver_publishes_becomes_a_cluster(double: Double) -> None:
    found = discover(double.api(), catalogue.gpu_types(), links={"n1": read_links(PAIRS)})
    assert [(n.name, n.gpu_type, n.gpus, n.nvlink_domains) for n in found.nodes] == [
        ("n1", "A100-80G", 4, ((0, 1), (2, 3))),
        ("n2", "A100-80G", 2, ()),
    ]
    assert found.nodes[0].gpu_uuids == ("GPU-n1-0", "GPU-n1-1", "GPU-n1-2", "GPU-n1-3")


def change(double: Double, edit: Any) -> None:
    double.store.change(("resourceslices", "", "n1-gpu.nvidia.com"), lambda o: edit(o["spec"]))


def test_gpus_are_numbered_by_bus_not_by_name(double: Double) -> None:
    def swap(spec: Any) -> None:
        a, b = (device["attributes"]["resource.kubernetes.io/pciBusID"] for device in spec["devices"][:2])
        a["string"], b["string"] = b["string"], a["string"]

    change(double, swap)
    assert discover(double.api(), catalogue.gpu_types()).nodes[0].gpu_uuids[:2] == ("GPU-n1-1", "GPU-n1-0")


def test_memory_is_what_the_smallest_gpu_has(double: Double) -> None:
    change(double, lambda spec: spec["devices"][1]["capacity"]["memory"].update(value="80Gi"))
    change(double, lambda spec: [d["capacity"]["memory"].update(value="79Gi") for d in spec["devices"]])
    [kind] = discover(double.api(), catalogue.gpu_types()).gpu_types
    assert kind.memory_bytes == 79 * 2**30


def test_an_unknown_product_is_named_with_the_remedy(double: Double) -> None:
    change(double, lambda spec: [d["attributes"]["productName"].update(string="NVIDIA Z9") for d in spec["devices"]])
    with pytest.raises(InputError, match=r"'NVIDIA Z9' .* is not in the catalogue: give --gpu-type 'NVIDIA Z9'=NAME"):
        discover(double.api(), catalogue.gpu_types())
    found = discover(double.api(), catalogue.gpu_types(), types={"NVIDIA Z9": "H100-80G"})
    assert found.nodes[0].gpu_type == "H100-80G"


@pytest.mark.parametrize(
    ("product", "memory", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "40Gi", "A100-40G"),
        ("NVIDIA H100 80GB HBM3", "81559Mi", "H100-80G"),
        ("NVIDIA H200", "143771Mi", "H200-141G"),
        ("NVIDIA L40S", "46068Mi", "L40S"),
        ("NVIDIA GeForce RTX 4090", "24564Mi", "RTX-4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "97887Mi", "RTX-PRO-6000"),
    ],
)
def test_products_as_drivers_spell_them(double: Double, product: str, memory: str, name: str) -> None:
    for slice_name in ("n1", "n2"):
        double.store.change(
            ("resourceslices", "", f"{slice_name}-gpu.nvidia.com"),
            lambda o: [
                (d["attributes"]["productName"].update(string=product), d["capacity"]["memory"].update(value=memory))
                for d in o["spec"]["devices"]
            ],
        )
    assert {node.gpu_type for node in discover(double.api(), catalogue.gpu_types()).nodes} == {name}


def test_no_driver_and_strange_topology(double: Double) -> None:
    with pytest.raises(InputError, match="--topology names node x9: must be one of n1, n2"):
        discover(double.api(), catalogue.gpu_types(), links={"x9": read_links(PAIRS)})
    with pytest.raises(InputError, match=r"node n2: has 2 GPUs, its topology file 4: is it the file of this node"):
        discover(double.api(), catalogue.gpu_types(), links={"n2": read_links(PAIRS)})
    with pytest.raises(BackendError, match=r"no device of driver gpu\.amd\.com"):
        discover(double.api(), catalogue.gpu_types(), driver="gpu.amd.com")


def publish(double: Double, *devices: Any) -> None:
    change(double, lambda spec: spec.update(devices=list(devices)))


def device(name: str, kind: str, uuid: str, bus: int, **more: str) -> Any:
    """One device as the driver publishes it (dra-driver-nvidia-gpu, deviceinfo.go)."""
    strings = {"type": kind, "uuid": uuid, "productName": "NVIDIA A100-SXM4-80GB", **more}
    strings["resource.kubernetes.io/pciBusID"] = f"0000:{bus:02x}:00.0"
    memory = (
        {"addressableMemory": {"value": "80Gi"}} if kind == "vfio" else {"memory": {"value": "80Gi"}} if kind == "gpu" else {}
    )
    attributes = {key: {"string": value} for key, value in strings.items()}
    return {"name": name, "attributes": attributes, "capacity": memory}


def discovered(double: Double) -> tuple[Any, list[str]]:
    double.store.remove(("resourceslices", "", "n2-gpu.nvidia.com"))
    said: list[str] = []
    return discover(double.api(), catalogue.gpu_types(), notify=said.append), said


def test_a_gpu_that_is_also_offered_to_virtual_machines_counts_once(double: Double) -> None:
    publish(
        double,
        device("gpu-0", "gpu", "GPU-a", 1),
        device("gpu-vfio-0", "vfio", "GPU-a", 1),
        device("gpu-vfio-1", "vfio", "GPU-b", 2),
        device("gpu-1", "gpu", "GPU-b", 2),
        device("gpu-vfio-2", "vfio", "GPU-c", 3),
    )
    found, said = discovered(double)
    assert found.nodes[0].gpu_uuids == ("GPU-a", "GPU-b")
    assert said == ["node n1: 1 GPUs are set aside for virtual machines (VFIO) and left out"]


def test_a_whole_gpu_beside_all_the_partitions_it_could_have_counts_once(double: Double) -> None:
    parts = [device(f"gpu-0-mig-1g10gb-19-{n}", "mig", "", 1, parentUUID="GPU-a", profile="1g.10gb") for n in range(7)]
    publish(double, device("gpu-0", "gpu", "GPU-a", 1), *parts)
    found, _ = discovered(double)
    assert (found.nodes[0].gpus, found.gpu_types[0].partitions_pct, found.nodes[0].gpu_type) == (1, (), "A100-80G")


def test_gpus_that_mig_has_cut_have_fixed_shares(double: Double) -> None:
    cut = [("1g.10gb", 2), ("2g.20gb", 1), ("3g.40gb", 1)]
    parts = [
        device(
            f"gpu-{gpu}-mig-{profile}-{n}", "mig", f"MIG-{gpu}-{profile}-{n}", 1 + gpu, parentUUID=f"GPU-{gpu}", profile=profile
        )
        for gpu in range(2)
        for profile, count in cut
        for n in range(count)
    ]
    publish(double, *parts)
    found, said = discovered(double)
    assert (found.nodes[0].gpus, found.nodes[0].gpu_uuids) == (2, ("GPU-0", "GPU-1"))
    assert [(kind.name, kind.partitions_pct) for kind in found.gpu_types] == [("A100-80G-mig", (14, 28, 42))]
    assert said[0].startswith("node n1: its GPUs are cut by MIG into shares of 14, 28, 42 %")


def test_an_old_generation_of_a_pool_does_not_count(double: Double) -> None:
    """A driver that starts again writes new slices before it takes the old ones away."""
    stale = [device(f"gpu-{n}", "gpu", f"GPU-old-{n}", n) for n in range(3)]
    pool = {"name": "n1", "generation": 0, "resourceSliceCount": 1}
    spec = {"driver": "gpu.nvidia.com", "nodeName": "n1", "pool": pool, "devices": stale}
    double.store.put("resourceslices", "", {"metadata": {"name": "n1-stale"}, "spec": spec})
    found, _ = discovered(double)
    assert found.nodes[0].gpu_uuids == ("GPU-n1-0", "GPU-n1-1", "GPU-n1-2", "GPU-n1-3")
