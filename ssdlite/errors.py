"""The errors that a user can cause. Each says what was expected, what came, and where."""


class SsdliteError(Exception):
    """Base of every error that stands for a mistake in what was given, not in this code.

    The command lines print its message alone, without a traceback, and exit with status 2.
    """


class ConfigError(SsdliteError, ValueError):
    """An unknown option, preset or value; the message names the known ones."""


class DataError(SsdliteError, ValueError):
    """An annotation file or image that is missing, malformed or contradictory; the message names the file."""


class CheckpointError(SsdliteError, ValueError):
    """A checkpoint that is not ours, is damaged, or does not fit."""


class ContractError(SsdliteError, ValueError):
    """An exported model or bundle that is not ours, is damaged, or contradicts itself."""


class ExportError(SsdliteError, RuntimeError):
    """A model cannot be exported as asked, or is not as accurate as was demanded."""


class TrainingError(SsdliteError, RuntimeError):
    """Training cannot go on, for example because the loss is no longer finite."""
