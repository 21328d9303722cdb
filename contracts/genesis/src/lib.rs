//! Genesis built by running the real constructors and initialisers in revm
