"""``mesocosm image unpin``: undo pin."""

from mesocosm.frontends.cli.library import verb_of_each

command = verb_of_each("Let IMAGES be removed and collected again.", lambda store, image: store.unpin(image))
