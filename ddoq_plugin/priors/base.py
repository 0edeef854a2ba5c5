import torch
def pick_device(d):
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if d=="auto" else torch.device(d)
