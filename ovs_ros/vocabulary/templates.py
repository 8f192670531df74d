"""Prompt templates to choose from when a vocabulary is adapted to a site.

Most forms are those that CLIP's authors used for ImageNet (Radford et al. 2021), without full stops; some say
where a robot sees things.
"""

_ARTICLES = ("a", "the")
_KINDS = ("small", "large", "clean", "dirty", "nice", "cool", "weird", "hard to see")
_PHOTOS = (
    *("good", "bad", "close-up", "cropped", "bright", "dark", "blurry", "pixelated", "low resolution"),
    *("jpeg corrupted", "black and white"),
)
POOL: tuple[str, ...] = (
    *("{}", "a {}", "the {}"),
    *(f"a photo of {which} {{}}" for which in ("a", "the", "my", "one", "many")),
    *(f"a photo of {article} {kind} {{}}" for kind in _KINDS for article in _ARTICLES),
    *(f"a {kind} photo of {article} {{}}" for kind in _PHOTOS for article in _ARTICLES),
    *(f"a {art} of {article} {{}}" for art in ("rendering", "drawing", "painting") for article in _ARTICLES),
    *("graffiti of a {}", "graffiti of the {}", "a cartoon {}", "the cartoon {}", "an origami {}"),
    *("the origami {}", "a plastic {}", "the plastic {}", "a toy {}", "the toy {}"),
    *("itap of a {}", "itap of the {}", "itap of my {}"),
    *(f"{there} {{}} in the scene" for there in ("there is a", "there is the", "this is a", "this is one")),
    *(
        f"a {{}} {where}"
        for where in ("in a room", "in an office", "in a kitchen", "in a street", "outdoors")
    ),
    *("a {} seen from a car", "a {} seen by a robot"),
)
"""Each has one '{}' for the name."""
