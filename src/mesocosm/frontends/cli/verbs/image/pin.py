"""``mesocosm image pin``: keep images, whatever is collected."""

from mesocosm.frontends.cli.library import verb_of_each

command = verb_of_each(
    "Keep IMAGES from being removed or collected, until they are unpinned.",
    lambda store, image: store.pin(image),
)
