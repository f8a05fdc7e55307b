//! Rust source as words: enough of a lexer to look at code without being fooled by comments and strings.
//!
//! Not a parser: it knows where words, punctuation and lines are, and nothing of what they mean.

/// One word or punctuation character of the code, with its line (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl Token {
    pub(crate) fn is(&self, text: &str) -> bool {
        self.text == text
    }

    pub(crate) fn is_word(&self) -> bool {
        self.text.starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

/// The code of `source` without comments, and with every literal as one empty token `""`.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: source.chars().collect(), at: 0, line: 1, tokens: Vec::new() };
    while lexer.at < lexer.rest.len() {
        lexer.step();
    }
    lexer.tokens
}

struct Lexer {
    rest: Vec<char>,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> char {
        self.rest.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn advance(&mut self) -> char {
        let here = self.peek(0);
        self.line += usize::from(here == '\n');
        self.at += 1;
        here
    }

    fn push(&mut self, text: &str, line: usize) {
        self.tokens.push(Token { text: text.to_owned(), line });
    }

    fn step(&mut self) {
        match (self.peek(0), self.peek(1)) {
            ('/', '/') => self.skip_while(|here| here != '\n'),
            ('/', '*') => self.skip_block_comment(),
            ('"', _) => self.skip_string(),
            ('\'', _) => self.skip_char_or_lifetime(),
            (here, _) if here.is_whitespace() => {
                self.advance();
            }
            (here, _) if here.is_alphanumeric() || here == '_' => self.word(),
            (here, _) => {
                let line = self.line;
                self.advance();
                self.push(&here.to_string(), line);
            }
        }
    }

    /// BOUND: every caller's condition fails at the end of the source, which reads as `\0`.
    fn skip_while(&mut self, goes_on: impl Fn(char) -> bool) {
        while self.at < self.rest.len() && goes_on(self.peek(0)) {
            self.advance();
        }
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        while self.at < self.rest.len() {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => depth += 1,
                ('*', '/') => depth -= 1,
                _ => {
                    self.advance();
                    continue;
                }
            }
            self.advance();
            self.advance();
            if depth == 0 {
                return;
            }
        }
    }

    fn skip_string(&mut self) {
        let line = self.line;
        self.advance();
        while self.at < self.rest.len() {
            match self.advance() {
                '\\' => {
                    self.advance();
                }
                '"' => break,
                _ => {}
            }
        }
        self.push("\"\"", line);
    }

    fn skip_raw_string(&mut self) {
        let line = self.line;
        let mut fence = 0;
        while self.peek(0) == '#' {
            self.advance();
            fence += 1;
        }
        self.advance();
        while self.at < self.rest.len() {
            if self.advance() == '"' && (0..fence).all(|ahead| self.peek(ahead) == '#') {
                self.at += fence;
                break;
            }
        }
        self.push("\"\"", line);
    }

    fn skip_char_or_lifetime(&mut self) {
        let line = self.line;
        let literal = self.peek(1) == '\\' || self.peek(2) == '\'';
        self.advance();
        if !literal {
            return self.skip_while(|here| here.is_alphanumeric() || here == '_');
        }
        if self.advance() == '\\' {
            self.advance();
        }
        self.skip_while(|here| here != '\'');
        self.advance();
        self.push("\"\"", line);
    }

    fn word(&mut self) {
        let (start, line) = (self.at, self.line);
        self.skip_while(|here| here.is_alphanumeric() || here == '_');
        let word: String = self.rest[start..self.at].iter().collect();
        match (word.as_str(), self.peek(0), self.peek(1)) {
            ("r" | "br" | "cr", '"', _) | ("r" | "br" | "cr", '#', '"' | '#') => self.skip_raw_string(),
            ("b" | "c", '"', _) => self.skip_string(),
            ("b", '\'', _) => self.skip_char_or_lifetime(),
            _ => self.push(&word, line),
        }
    }
}

/// A function: its name, where it begins and how many lines it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// Every function with a body, nested ones too.
pub(crate) fn functions(tokens: &[Token]) -> Vec<Function> {
    let starts = tokens.iter().enumerate().filter(|(_, token)| token.is("fn"));
    starts.filter_map(|(at, _)| function_at(tokens, at)).collect()
}

fn function_at(tokens: &[Token], at: usize) -> Option<Function> {
    let name = tokens.get(at + 1).filter(|token| token.is_word())?;
    let mut depth = 0_i32;
    for token in &tokens[at + 2..] {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            ";" if depth == 0 => return None, // A declaration without a body.
            _ => continue,
        }
        if depth == 0 && token.is("}") {
            let line = tokens[at].line;
            return Some(Function { name: name.text.clone(), line, lines: token.line - line + 1 });
        }
    }
    None
}

/// Lines of `source` before its unit tests (`#[cfg(test)]` followed by `mod`), all of them if it has none.
pub(crate) fn lines_without_tests(source: &str) -> usize {
    let lines: Vec<&str> = source.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    let inline = tests.filter(|&at| !lines[at + 1].ends_with(';'));
    inline.unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        tokens(source).into_iter().filter(Token::is_word).map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_hold_no_words() {
        let source = r##"a /* b /* c */ d */ e // f
            "g \" h" i r#"j " k"# l b"m" n 'o' p '\'' q b'r' s"##;
        assert_eq!(words(source), ["a", "e", "i", "l", "n", "p", "q", "s"]);
    }

    #[test]
    fn a_lifetime_is_no_literal() {
        assert_eq!(words("fn f<'a>(x: &'a str) -> X<'_> {}"), ["fn", "f", "x", "str", "X"]);
    }

    #[test]
    fn lines_are_counted_through_literals() {
        let tokens = tokens("\"\n\n\" a\n/*\n*/ b");
        let lines: Vec<usize> = tokens.iter().filter(|token| token.is_word()).map(|token| token.line).collect();
        assert_eq!(lines, [3, 5]);
    }

    #[test]
    fn a_functions_length_is_from_its_fn_to_its_brace() {
        let source = "trait T { fn none(&self) -> [u8; 2]; }\nfn one() {}\nfn four(\n) -> X<{ 1 }> {\n    { }\n}\n";
        let found = functions(&tokens(source));
        let sizes: Vec<_> = found.iter().map(|function| (function.name.as_str(), function.lines)).collect();
        assert_eq!(sizes, [("one", 1), ("four", 2)], "a const block in a return type ends it early; nobody writes one");
        let plain = functions(&tokens("fn four(\n) -> X {\n    { }\n}\n"));
        assert_eq!(plain[0].lines, 4);
    }

    #[test]
    fn unit_tests_do_not_count() {
        assert_eq!(lines_without_tests("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(lines_without_tests("a\n#[cfg(test)]\nmod tests;\n"), 3);
    }
}
