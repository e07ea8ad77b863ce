"""Know the built-in strategies' files as they were before what they import moved to folders of its own.

A record keeps the SHA-256 of its strategy's file, because a run that was begun with other code cannot go on.
These files compute the same numbers as today's and hold the same state, so that a run begun with them can.
Whoever changes what a strategy computes takes its row out.
"""

from __future__ import annotations

FORMER_SOURCES = {  # SHA-256 by the name of the file in strategies/
    "agem": "6480fd348941a9c647da0ffc067415cac5044568a4cedef2b500116f964f0876",
    "aper": "2be4ee67291afd9d9f67a5356e14fde27447878499c3dc0efacd9f8e2237daf1",
    "avalanche": "7646114cc0dc41bd367e1089a7c64f83f0d2c351ca175d70373011d2791bafa6",
    "avalanche_prototypes": "7646114cc0dc41bd367e1089a7c64f83f0d2c351ca175d70373011d2791bafa6",
    "coda_prompt": "77cc8be0a5ac1fb98fcdd0b85077f09205c9b834c4ccbff07f3763c1c534cb78",
    "confit": "87403524ebb6354b63c08e3d70de385afe7083b0da06d2695dc8c25fd43aa7ee",
    "der": "e2c1b192a8d4d17f8a43b4a381f90a29e20c87c236a0d361d30beeb964cbef2e",
    "derpp": "9ebbcf784d01f48c5ee47827790898ee700e1f933989cf43bf29cf7d4ee4644a",
    "dualprompt": "e952f147e2707eb613e3b39ac6bede693656cfa657f847ac16e5603c5be6ad10",
    "ease": "af4812eb3fbfe888ac67717a315b7ebc2c87a39d1b27bfe691c985cf4998779b",
    "er": "124518a739840adff29495ae4814f11af605ede6109461fc63f1dc3cdf60e4b5",
    "er_ace": "40a43e0cd168e1e1839b90404a540eab9739fd7eb344a0ca1c7657837d062854",
    "ewc": "e7ce59cea1edf53568de853964d23d8128b2baf6c3bc538d6d22775ff36a79fd",
    "fecam": "14017ab816bd72207aa904d41f4346ab4bfb49ba63bf01a83ad0b1e78c5426fb",
    "gdumb": "2ad60baa81164f2590de9c9f4272b04b12794b98989ba23ed351019f192d9fa8",
    "generative": "1dc0299ad4647f2a7f1f87c18031923a0437f5bb71eb4d76eb9653c1ec233c2c",
    "icarl": "60d840892313c8b8f5dc6f198ae390a6b3f3a291a11b179bb63392c628a14e8e",
    "inflora": "09215dd1a8b036173e442f4fc2f542c9af04aa4453dd077fc54f890524b5d0da",
    "joint": "0da3be49d856ff16abbb03b8f211017526b786b8f45e641c063a9d86fe5eb8da",
    "l2p": "1f6f4fba663776dc0629002762d37c4dbdad83359443c7086d635996cd3c7de9",
    "lae": "19ec979974983e60819baddd5e137df01a6bd9c5926af0bb241aecc0b81d2c48",
    "lwf": "30fdc7de446c5fb5ffc1e7b3083fcb4fc190053bb1813ccad310cf39acce5177",
    "mas": "1aa56793487ff37ae4ce0e37fb0440c9a0e77ae2bd522682ba7104f132ceb193",
    "mir": "dd2fe383300044e46e561a808e0e11d0cd1d291f3e595fe8a32ce4f7e356e355",
    "naive": "cf9360f4eb8929703b0020c25649ecc559480306f5cd4529926f589cffe02a2f",
    "ranpac": "ef47b8831fd00a642f8be8a5ac4fa3037b216b824ef3237ecf45425d2504dd12",
    "scr": "e1ae0e7fe488ff2adc5cba80970e64672b63f2687ffc06d2c9b25f46d564815e",
    "si": "8fccb22753b61c77f9f007f70dcc07c549df5fc42782dff11be8262885f2297c",
    "simplecil": "47272e2af9f33de5eb64a6eec02485cd6891436af06d1d8ddb201b20a68cabcb",
    "slca": "de804e3ed35a702585c39ae758d85b76993d62cb609e09ead28b34e5816e90dc",
    "slda": "054a80e0fd26d75059412af68b9b53c1b1550309e80e6ab48bc76fa34b11b1c6",
    "taer": "da4a770e556fbb095b59795570a8ef2c3c2c08dce5d15b901322257b888829cb",
}


def is_former(digest: str, module: str) -> bool:
    """Return whether a digest is that of the file of a strategy's module as it was before."""
    package, _, name = module.rpartition(".")
    return package == "clbench.strategies" and FORMER_SOURCES.get(name) == digest
