"""Know the built-in strategies' files as they were, where they computed the same numbers.

A record keeps the SHA-256 of its strategy's file, because a run that was begun with other code cannot go on.
These files compute the same numbers as today's and hold the same state, so that a run begun with them can.
Whoever changes what a strategy computes takes its row out.
"""

from __future__ import annotations

FORMER_SOURCES = {  # SHA-256 by the name of the file in strategies/, the oldest first
    "agem": (
        "6480fd348941a9c647da0ffc067415cac5044568a4cedef2b500116f964f0876",
        "fa856967c726411c73764f99154ceb9e5eb8d4d41a55188f68e96278ccd0b872",
    ),
    "aper": (
        "2be4ee67291afd9d9f67a5356e14fde27447878499c3dc0efacd9f8e2237daf1",
        "901d20d5533bd6170f4c94cb58c70ed66cdd709923181d2e2009b3da0770cdee",
    ),
    "avalanche": ("7646114cc0dc41bd367e1089a7c64f83f0d2c351ca175d70373011d2791bafa6",),
    "avalanche_prototypes": (
        "7646114cc0dc41bd367e1089a7c64f83f0d2c351ca175d70373011d2791bafa6",
        "8635cdfec3927c539ffdc190011a4cfe0d8e9a1342f6722402d89fdb261a9c16",
        "35f6142857d5bb01847412aa0e9ab465d44576af5b7c553cc7e5be6bcb51bc7d",
    ),
    "coda_prompt": ("ca335d28931364ff5ebaaf04d0788f9f46e704ed875f9e7ab070f9dd692d1a69",),
    "der": ("e2c1b192a8d4d17f8a43b4a381f90a29e20c87c236a0d361d30beeb964cbef2e",),
    "derpp": ("9ebbcf784d01f48c5ee47827790898ee700e1f933989cf43bf29cf7d4ee4644a",),
    "dualprompt": ("53e729a833b6f6eabd09fb9410d829d61ef35a3fa35462bd987c69ebfa5bc742",),
    "ease": (
        "af4812eb3fbfe888ac67717a315b7ebc2c87a39d1b27bfe691c985cf4998779b",
        "0de1471a5fc1d3de9b6f6bb2906d42c0bc47331bb97109942f4cc6ffaf0b421f",
    ),
    "er": ("124518a739840adff29495ae4814f11af605ede6109461fc63f1dc3cdf60e4b5",),
    "er_ace": ("40a43e0cd168e1e1839b90404a540eab9739fd7eb344a0ca1c7657837d062854",),
    "ewc": (
        "e7ce59cea1edf53568de853964d23d8128b2baf6c3bc538d6d22775ff36a79fd",
        "9ff6f12aad99e213553c5ef84baca1ffbf0364e4a115f8f9e885102f0dc3d3af",
    ),
    "fecam": (
        "14017ab816bd72207aa904d41f4346ab4bfb49ba63bf01a83ad0b1e78c5426fb",
        "0531f30c953fc859bbfa6e5d4e7379cf54a365ca595435cc36e5f8798f9078fa",
    ),
    "gdumb": (
        "2ad60baa81164f2590de9c9f4272b04b12794b98989ba23ed351019f192d9fa8",
        "759a0d8ef17a30c941947273f2434e495a06f3fe6c59a49059649a888587979d",
    ),
    "generative": (
        "1dc0299ad4647f2a7f1f87c18031923a0437f5bb71eb4d76eb9653c1ec233c2c",
        "04b7f94ac31212755c6b67bc8540af2ab898ee6b17855ee639cd0cf07a5e28d5",
        "019523506a18e66849950cafe008cebe1d4ac6c235250f843d1daa221a35bad8",
    ),
    "icarl": (
        "60d840892313c8b8f5dc6f198ae390a6b3f3a291a11b179bb63392c628a14e8e",
        "126a23c29debe021b11f3efa3c6bff495269e33f8f08a671ed83dd63f88c8962",
        "4fd786d51e3528c37f5efdaf9f729d80da20b272ee1490090a3b4dfe94d38d71",
    ),
    "joint": (
        "0da3be49d856ff16abbb03b8f211017526b786b8f45e641c063a9d86fe5eb8da",
        "4bec1daf6dc76152f6de632c2476f425312ace8c17c7704a21594f28578f30fc",
        "a4b76f61a3bc4939379e546e710132575a326674abc8efea9b29b7cbb792e19d",
    ),
    "l2p": ("db2db4c63ef18513b65d07f22e31e1785e414f77349be7c64414781115810947",),
    "lae": (
        "19ec979974983e60819baddd5e137df01a6bd9c5926af0bb241aecc0b81d2c48",
        "d8b7ad1180e006e501114eb03439b842cac8068260327f01b15f23b544e03354",
        "ee1fbb2980e8dd344a7b6f3a1f6e4b094eb33b7abcf2d783ce314f2510b621d6",
        "7b2dee59b01cdf4862f64f40a64b9da2f6b9bf41e6be6592fc275c805f4dec34",
    ),
    "lwf": (
        "30fdc7de446c5fb5ffc1e7b3083fcb4fc190053bb1813ccad310cf39acce5177",
        "825bc51ab785d6bd955ae5464b04d9c355c236800ef93dcce524633c1bdc67e7",
    ),
    "mas": (
        "1aa56793487ff37ae4ce0e37fb0440c9a0e77ae2bd522682ba7104f132ceb193",
        "ed5ead1b10ec2f35152cd4cb32ab1b41abcf17b3098830d11c2b7767acda9e94",
    ),
    "mir": ("dd2fe383300044e46e561a808e0e11d0cd1d291f3e595fe8a32ce4f7e356e355",),
    "naive": (
        "cf9360f4eb8929703b0020c25649ecc559480306f5cd4529926f589cffe02a2f",
        "ad98c0b913664a8ea9f3a930d6b2218bb26f6bdeb58e59880376bef479bb73bb",
    ),
    "ranpac": (
        "ef47b8831fd00a642f8be8a5ac4fa3037b216b824ef3237ecf45425d2504dd12",
        "95a202eb63e8c1449921bfbab6b21debcf93587cfd65899933d71b25d9af38cd",
        "bc024df4631adfbc8f8cab8114e221d2e1c723f3a8824fbc2f08841fac13e0c0",
    ),
    "scr": (
        "e1ae0e7fe488ff2adc5cba80970e64672b63f2687ffc06d2c9b25f46d564815e",
        "ae299f394b08a0687a81ed6e11fbc7a61d2fa8bd83fab36e7ce80c584588fdee",
        "f59d0dd126db905049b9f480d54c9abd48885851427b6d308d8d89a99a52aa68",
    ),
    "si": ("8fccb22753b61c77f9f007f70dcc07c549df5fc42782dff11be8262885f2297c",),
    "simplecil": (
        "47272e2af9f33de5eb64a6eec02485cd6891436af06d1d8ddb201b20a68cabcb",
        "dc998610e01e989461396eb4a5ac59cd5a461d27ee05549135c04cc2855facab",
    ),
    "slda": ("6e6d484d1f62062f241ec1d278c407b2e62077239f013cf33cbcdd434c355138",),
    "taer": (
        "da4a770e556fbb095b59795570a8ef2c3c2c08dce5d15b901322257b888829cb",
        "fe9578fb29f478268d63ff35932ad2e1d9d80637501160f9ac24f793afaf098c",
    ),
}


def is_former(digest: str, module: str) -> bool:
    """Return whether a digest is that of the file of a strategy's module as it was before."""
    package, _, name = module.rpartition(".")
    return package == "clbench.strategies" and digest in FORMER_SOURCES.get(name, ())
