"""`python -m vllm_rightsizer`."""

from vllm_rightsizer.cli import main

if __name__ == "__main__":
    main()
