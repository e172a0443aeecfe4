"""Self-supervised word recognisers as Transformers models: RCMSTR and PerSec.

Importing the package registers its classes with the Auto classes and the task `text-recognition` with `pipeline()`.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCTC,
    AutoModelForTextRecognition,
    AutoProcessor,
    AutoTokenizer,
)

from .configuration_persec import PerSecConfig
from .configuration_rcmstr import RCMSTRConfig
from .modeling_persec import PerSecForConditionalGeneration, PerSecForTextRecognition, PerSecModel
from .modeling_rcmstr import RCMSTRForConditionalGeneration, RCMSTRForTextRecognition, RCMSTRModel

__version__ = "0.1.0"

for _config, _model, _ctc, _attention in (
    (RCMSTRConfig, RCMSTRModel, RCMSTRForTextRecognition, RCMSTRForConditionalGeneration),
    (PerSecConfig, PerSecModel, PerSecForTextRecognition, PerSecForConditionalGeneration),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    AutoModelForTextRecognition.register(_config, (_ctc, _attention))
    AutoModelForCTC.register(_config, _ctc)
