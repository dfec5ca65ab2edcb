"""Logits and features of a network in memory, from data in memory: any `nn.Module`, any loader or data set."""
