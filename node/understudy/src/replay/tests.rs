//! What an operator sees: the verdict, the text, the errors.
