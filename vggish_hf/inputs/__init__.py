"""Find the clips in files, folders, globs, lists, archives, tables and URLs."""

from vggish_hf.inputs.addresses import without_secrets as without_secrets
from vggish_hf.inputs.clip import MAX_CLIP_BYTES as MAX_CLIP_BYTES
from vggish_hf.inputs.clip import Clip as Clip
from vggish_hf.inputs.clip import make_decoder as make_decoder
from vggish_hf.inputs.clip import readable_id as readable_id
from vggish_hf.inputs.containers import CONTAINER_EXTENSIONS as CONTAINER_EXTENSIONS
from vggish_hf.inputs.listing import find_clips as find_clips
from vggish_hf.inputs.search import SkipHandler as SkipHandler
from vggish_hf.inputs.search import SkipReason as SkipReason
from vggish_hf.inputs.search import is_litter as is_litter
