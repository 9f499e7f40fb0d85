"""The paper's baselines and newer rivals, one file each."""
