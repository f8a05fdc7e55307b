//! What is kept, how it is grouped, how it is shown.
