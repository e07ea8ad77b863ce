"""Sort the names of a kind into families, for the tables that a reader looks through.

A name that no family lists has its place in the last table: a new file needs no change here.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch

REST = "Others"
FAMILIES = {
    "strategies": {
        "Bounds": "naive joint",
        "Ensembles and alignment": "lae slca incubate",
        "Frozen features": "simplecil slda ranpac fecam aper ease taer",
        "Prompts and subspaces": "l2p dualprompt coda-prompt inflora",
        "Replay": "er er-ace der derpp mir agem gdumb icarl scr generative",
        "Regularisation": "lwf ewc si mas",
        "Side networks": "mdpd",
        "ConvNets, task by task": "confit",
        "Avalanche's, in Avalanche's own loop": "avalanche.*",
    },
    "petl": {
        "Adapters": "adapter conv-adapter houlsby pfeiffer adaptformer repadapter convpass convpass-attn"
        " vl-pet bi-adapter",
        "Low rank and factors": "lora lora-qv lora-fused bi-lora fact-tt fact-tk bone moe-lora",
        "Tokens": "vpt-shallow vpt-deep prefix",
        "Scales and biases": "ssf ia3 bitfit norm-tuning",
        "Side networks": "lst unipt sherl",
        "Searched": "noah",
        "All or nothing": "linear full",
        "Methods of Hugging Face peft": "peft.*",
    },
    "quant": {
        "Weights alone": "rtn least-error gauss-median ternary",
        "Weights and activations": "adalog minmax base-ptq twin log2 log-sqrt2",
        "Methods of torchao": "torchao.*",
    },
    "compress": {"Merging and dropping": "tome evit"},
    "streams": {
        "Classes of one data set": "split-*",
        "Data sets one after another": "5-datasets vtab-1k",
        "Domains": "domainnet core50",
        "Your own images": "folder npz domains avalanche",
    },
}


def in_families(kind: str, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names by family, in the order of the families; what none of them lists comes last."""
    left = list(names)
    found = {}
    for family, patterns in FAMILIES.get(kind, {}).items():
        listed = [name for pattern in patterns.split() for name in left if fnmatch(name, pattern)]
        found[family] = listed
        left = [name for name in left if name not in listed]
    return {family: members for family, members in {**found, REST: left}.items() if members}
