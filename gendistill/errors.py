"""Everything that gendistill raises on purpose.

    GendistillError
    ├── ConfigError          the configuration is wrong or contradicts itself
    ├── DataError            the real data cannot be read or does not fit the task
    ├── ModelError           a student or generator cannot be found or loaded
    ├── GenerationError      the generator gives nothing usable
    ├── RunError             the run directory cannot be used (locked, another configuration, no space)
    └── MissingExtraError    an optional package is needed and not installed

Each message is one line: what was wrong, where, and what to do about it. The command line prints it without a
traceback and exits with ``exit_code``.
"""


class GendistillError(Exception):
    """Base of all errors that a user can do something about."""

    exit_code = 1


class ConfigError(GendistillError):
    exit_code = 2


class DataError(GendistillError):
    exit_code = 3


class ModelError(GendistillError):
    exit_code = 4


class GenerationError(GendistillError):
    exit_code = 5


class RunError(GendistillError):
    exit_code = 6


class MissingExtraError(GendistillError):
    exit_code = 7
