# Which Python and platform the packages of a layer are for. Its environment may say:
#   SYNCLINE_PYTHON          the Python that builds (python3)
#   SYNCLINE_LAYER_PYTHON    the version of the functions' Python, that of LambdaRuntime; 3.13 by default
#   SYNCLINE_LAYER_PLATFORM  pip's names of the functions' platform; by default those of Amazon Linux 2023 on a processor
#                            of this machine's kind. For Architecture=arm64 elsewhere: "manylinux_2_28_aarch64
#                            manylinux2014_aarch64"
#   SYNCLINE_LAYER_LINK      a folder of this machine that takes the content, while the layer itself only refers to it:
#                            the engine on one machine unpacks the layer for each process of a function. The layer is
#                            then for this machine and the Python that builds.
#
# With SYNCLINE_LAYER_PYTHON set to the version of the Python that builds, and no platform, the layer is for this machine.

python := $(or $(SYNCLINE_PYTHON),python3)
own := $(shell "$(python)" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
version := $(or $(SYNCLINE_LAYER_PYTHON),$(if $(SYNCLINE_LAYER_LINK),$(own),3.13))
processor := $(shell uname -m)
amazon := manylinux_2_28_$(processor) manylinux2014_$(processor)
here := $(or $(SYNCLINE_LAYER_LINK),$(filter $(own),$(SYNCLINE_LAYER_PYTHON)))
platforms := $(or $(SYNCLINE_LAYER_PLATFORM),$(if $(here),,$(amazon)))

target := $(foreach platform,$(platforms),--platform $(platform))
target += $(if $(filter-out $(own),$(version)),--python-version $(version))
target := $(if $(strip $(target)),$(target) --only-binary=:all:)

# Compiled files save half of a cold start; another Python cannot make them. "unchecked": nothing keeps the times of files
# in an archive.
compile := $(if $(filter $(own),$(version)),"$(python)" -m compileall -q --invalidation-mode unchecked-hash,true)

# Another build may publish the same content first: a plain mv would then put this one inside it.
publish = { mv -T "$$new" "$(dependencies)" 2>/dev/null || { rm -rf "$$new" && test -d "$(dependencies)"; }; }
