# Forwards to dev.py, which also works where there is no make.
demo test lint: ; python3 dev.py $@
.PHONY: demo test lint
