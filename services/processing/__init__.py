"""Raw payload to tensors and tensors to answers: the code that training, online serving and batch jobs share.

What can live in the graph lives in the graph (scaling, one-hot, mean subtraction). A processor does the rest (columns by
name, tokenizing, image decoding), and is data beside the model: `options` in the manifest and asset files.

    processor = TextProcessor.fit(training_texts, vocabulary_size=8000, max_length=128)
    tensors = processor.encode(["free entry!"])        # {"tokens": int32 [1, L]}
    spec = processor.save(version_directory)           # what the manifest holds
    same = load_processor(version_directory, spec)
"""

from services.processing.base import Processor, load_processor, processor_type

__all__ = ["Processor", "load_processor", "processor_type"]
