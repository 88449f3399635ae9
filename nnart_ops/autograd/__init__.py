"""The differentiable operators: one ``torch.autograd.Function`` each, and what torch needs to know about its op."""
