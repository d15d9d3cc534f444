from .mine import mine_landmarks as mine_landmarks
from .mined_files import save_landmarks as save_landmarks
