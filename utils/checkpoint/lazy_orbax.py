"""The import of Orbax."""

import logging


def load_orbax():
    """Returns `orbax.checkpoint`, imported only now because that takes 0.4 s.

    Its log lines are left out: what matters of them comes as exceptions.
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(_is_not_of_orbax)
    return ocp


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname
