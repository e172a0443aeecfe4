"""Self-supervised word recognisers as Transformers models: RCMSTR and PerSec.

Importing the package registers its classes with the Auto classes and the task `text-recognition` with
`pipeline()`; without a model argument the pipeline reads with the recogniser that is bundled here, offline.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCTC,
    AutoModelForPreTraining,
    AutoModelForTextRecognition,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_persec import PerSecConfig
from .configuration_rcmstr import RCMSTRConfig
from .image_processing_text_recognition import TextRecognitionImageProcessor
from .modeling_persec import PerSecForConditionalGeneration, PerSecForTextRecognition, PerSecModel
from .modeling_rcmstr import RCMSTRForConditionalGeneration, RCMSTRForTextRecognition, RCMSTRModel
from .onnx_reading import OnnxForConditionalGeneration, OnnxForTextRecognition, OnnxTextRecognitionModel
from .pipeline_text_recognition import TextRecognitionPipeline, default_checkpoint
from .pretraining_persec import PerSecForPreTraining
from .pretraining_rcmstr import RCMSTRForPreTraining
from .processing_text_recognition import TextRecognitionProcessor
from .tokenization_text_recognition import CharacterTokenizer

__version__ = "0.1.0"

__all__ = [
    "CharacterTokenizer",
    "OnnxForConditionalGeneration",
    "OnnxForTextRecognition",
    "OnnxTextRecognitionModel",
    "PerSecConfig",
    "PerSecForConditionalGeneration",
    "PerSecForPreTraining",
    "PerSecForTextRecognition",
    "PerSecModel",
    "RCMSTRConfig",
    "RCMSTRForConditionalGeneration",
    "RCMSTRForPreTraining",
    "RCMSTRForTextRecognition",
    "RCMSTRModel",
    "TextRecognitionImageProcessor",
    "TextRecognitionPipeline",
    "TextRecognitionProcessor",
    "default_checkpoint",
]

for _config, _model, _ctc, _attention in (
    (RCMSTRConfig, RCMSTRModel, RCMSTRForTextRecognition, RCMSTRForConditionalGeneration),
    (PerSecConfig, PerSecModel, PerSecForTextRecognition, PerSecForConditionalGeneration),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    # Which of them a folder needs, its `architectures` say.
    _readers = (_ctc, _attention, OnnxForTextRecognition, OnnxForConditionalGeneration)
    AutoModelForTextRecognition.register(_config, _readers)
    AutoModelForCTC.register(_config, _ctc)
    AutoImageProcessor.register(_config, image_processor_classes={"pil": TextRecognitionImageProcessor})
    AutoTokenizer.register(_config, slow_tokenizer_class=CharacterTokenizer)
    AutoProcessor.register(_config, TextRecognitionProcessor)

AutoModelForPreTraining.register(PerSecConfig, PerSecForPreTraining)
AutoModelForPreTraining.register(RCMSTRConfig, RCMSTRForPreTraining)

PIPELINE_REGISTRY.register_pipeline(
    "text-recognition",
    pipeline_class=TextRecognitionPipeline,
    pt_model=AutoModelForTextRecognition,
    default={"model": (str(default_checkpoint()), "main")},
    type="image",
)
