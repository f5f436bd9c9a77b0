"""Q-SFT in small: Q-learning via supervised fine-tuning (Hong, Dragan, Levine, ICLR 2025)."""

__version__ = "0.1.0"
