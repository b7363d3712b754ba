"""Convert official and ported checkpoints exactly, without TensorFlow."""

from vggish_hf.conversion.convert import ConvertedCheckpoint as ConvertedCheckpoint
from vggish_hf.conversion.convert import convert_checkpoint as convert_checkpoint
from vggish_hf.conversion.convert import convert_google as convert_google
from vggish_hf.conversion.convert import google_folder as google_folder
from vggish_hf.conversion.convert import save_converted as save_converted
