"""Which blocks tell true answers from false ones: HSAV, HSS, EAVSS and what else does."""
