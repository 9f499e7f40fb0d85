"""The pairs that the kit knows by name. Imports nothing that takes time.

The paper's authors published the released ones (GitHub ``WujiangXu/IM-VAE``); the SHA-256 are of their files.
"""

from dataclasses import dataclass

SOURCE = "https://raw.githubusercontent.com/WujiangXu/IM-VAE/a9ec2faf7b0a5e10146899d276e47e36c15b6098/dataset/"
FOOD_KITCHEN = "amazon2014-food-kitchen"  # logs that `i2vae fetch` builds (data/logs/amazon.py)


@dataclass(frozen=True)
class ReleasedFile:
    name: str
    sha256: str


@dataclass(frozen=True)
class ReleasedPair:
    names: dict[str, str]
    train: ReleasedFile
    test: ReleasedFile


REGISTRY = {
    "cloth_sport": ReleasedPair(
        {"x": "Cloth", "y": "Sport"},
        ReleasedFile("cloth_sport_train.csv", "e0df97f57bc77714480f3964082c2230bf30a511097cff7d47a7bf9b2dfd864c"),
        ReleasedFile("cloth_sport_test_csu.csv", "e77e0da7e39fcee93fc3a695f28432b28a4d5415f8ac403ebed00ba2ec77693c"),
    ),
    "phone_elec": ReleasedPair(
        {"x": "Phone", "y": "Elec"},
        ReleasedFile("phone_elec_train.csv", "7f6922a42159c2a0f18483ae7c4faacc5335a28c42d3dac9cfc8b998fb77e201"),
        ReleasedFile("phone_elec_test_csu.csv", "6fcf5660bc321bdd00d6564922872a9ccfa093e9239ea23f8c1b2f6beb1524c2"),
    ),
    "game_video": ReleasedPair(
        {"x": "Game", "y": "Video"},
        ReleasedFile("game_video_train.csv", "3aa16018702505dca29f6f32f655437ac82a5f383119f4cd5b4ea6c1debc66d9"),
        ReleasedFile("game_video_test_csu.csv", "26a8925e7f81be42114b1abb1daf67e0aac0e63caaed7e4af5941a4b9b288314"),
    ),
}
