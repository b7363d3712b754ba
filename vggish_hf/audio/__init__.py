"""Decode audio from files, bytes and arrays, within limits; in separate processes on request."""

from vggish_hf.audio.excerpts import Excerpt as Excerpt
from vggish_hf.audio.isolated import IsolatedDecoders as IsolatedDecoders
from vggish_hf.audio.isolated import WorkerDecoders as WorkerDecoders
from vggish_hf.audio.limits import DEFAULT_LIMITS as DEFAULT_LIMITS
from vggish_hf.audio.limits import AudioError as AudioError
from vggish_hf.audio.limits import AudioLimits as AudioLimits
from vggish_hf.audio.limits import DecoderStartError as DecoderStartError
from vggish_hf.audio.sources import AUDIO_EXTENSIONS as AUDIO_EXTENSIONS
from vggish_hf.audio.sources import AudioSource as AudioSource
from vggish_hf.audio.sources import AudioStream as AudioStream
from vggish_hf.audio.sources import Decoder as Decoder
from vggish_hf.audio.sources import load_audio as load_audio
from vggish_hf.audio.sources import open_audio as open_audio
from vggish_hf.audio.sources import open_excerpt as open_excerpt
