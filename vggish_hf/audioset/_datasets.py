"""The optional package `datasets`, or an error that names the extra."""

try:
    import datasets as datasets
except ModuleNotFoundError as error:
    if error.name != "datasets":
        raise
    raise ImportError(
        "AudioSet as a data set needs `datasets`: pip install 'vggish-hf[audioset]'"
    ) from None
