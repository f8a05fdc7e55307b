//! Golden texts of mistakes, and what a good file means.
