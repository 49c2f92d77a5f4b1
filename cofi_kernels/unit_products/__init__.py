"""Dense products over the live units of a masked sublayer, in Triton: what masked_ffn and masked_attention share."""
