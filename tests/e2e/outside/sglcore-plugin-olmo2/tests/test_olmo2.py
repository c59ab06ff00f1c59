"""OLMo 2 against Transformers, with the conformance kit."""

from sglcore_plugin_olmo2.spec import SPEC

from sglcore.testing import ModelConformance

SMALL = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 2,
}


class TestOlmo2(ModelConformance):
    spec = SPEC
    model_type = "olmo2"
    configs = {
        "grouped heads": SMALL,
        "tied, with biases": {
            **SMALL,
            "num_key_value_heads": 6,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
        },
    }
