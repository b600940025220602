"""Strata's front door, and its table of contents.

    python run_pipeline.py [COMMAND] [CONFIG]     no command: run configs/demo.yaml

The stages in order, each one command and one folder. A stage reads files and writes files, so it can be stopped,
repeated, or run on another machine.

    extract     corpus and language model -> activation store       pipeline/extractor/, stores/
    train       store -> one trained SAE per variant and site       pipeline/trainer/
    evaluate    held-out rows of the store -> scores of every SAE   pipeline/evaluation/
    report      run folder -> one HTML page and one CSV table       pipeline/report/

`run` goes through all four (pipeline/commands/stages.py). An installed Strata has the same command line as `strata`.
"""

from strata_sae.pipeline.commands.app import main

if __name__ == "__main__":
    main()
