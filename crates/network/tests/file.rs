//! Errors in files, and the messages that their authors see.

use pointwise_network::{
    AvgPool2d, BatchNorm2d, Branch, Conv2d, Dropout, Entry, Fan, Flatten, Gelu, GeluApproximation,
    InitialRule, Kaiming, Layer, LeakyRelu, Linear, MaxPool2d, Network, NetworkError, Nonlinearity,
    PadChannels, Pair, Part, Relu, Relu6, Rule, Scale, Sigmoid, Silu, Subsample, Tanh,
};

/// The kinds that the message about an unknown layer lists.
const KINDS: &str = "Conv2d, Linear, BatchNorm2d, ReLU, ReLU6, LeakyReLU, GELU, SiLU, Sigmoid, Tanh, MaxPool2d, AvgPool2d, \
    AdaptiveAvgPool2d, Dropout, Flatten, Scale, Subsample, PadChannels, Sequential, Sum, Concat, Multiply";

/// A description that is complete except for an entry, on line 4, and a rule, on line 8.
fn around(entry: &str, rule: &str) -> String {
    format!(
        "name = \"net\"\ninput = [3, 8, 8]\nlayers = [\n    {entry},\n    \"Flatten\", {{ Linear = {{ out_features = 10 }} }},\n]\n\
         initial = [\n    {rule}\n]\n"
    )
}

fn message(text: &str) -> String {
    Network::from_toml(text).expect_err(text).to_string()
}

#[track_caller]
fn told(text: &str, expected: &str) {
    let found = message(text);
    assert_eq!(found, expected.replace("KINDS", KINDS), "\n{text}");
    assert!(!found.contains('\n'), "{found}");
}

#[test]
fn wrong_files() {
    let cases = [
        (
            "name = \"net\"\nepochs = 3\ninput = [3, 8, 8]\nlayers = []",
            "line 2, column 1: unknown key `epochs`, expected one of `name`, `about`, `input`, `layers`, `initial`",
        ),
        ("input = [3, 8, 8]\nlayers = []", "line 1, column 1: missing key `name`"),
        (
            "name = \"net\"\ninput = [3, 8]\nlayers = []",
            "line 2, column 9: the input has 2 numbers; give three, [channels, rows, columns]",
        ),
        (
            "name = \"net\"\ninput = [3, 8, 8, 8]\nlayers = []",
            "line 2, column 9: the input has 4 numbers; give three, [channels, rows, columns]",
        ),
        (
            "name = \"net\"\ninput = [3, 0, 8]\nlayers = []",
            "the input of `net` is [3, 0, 8]; give [channels, rows, columns], each from 1 to 65536, of at most 2147483648 values",
        ),
        (
            "name = \"net\"\ninput = [3, -1, 8]\nlayers = []",
            "line 2, column 13: invalid value: integer `-1`, expected a whole number from 0",
        ),
        (
            "name = \"net\"\ninput = [3, 100000, 8]\nlayers = []",
            "the input of `net` is [3, 100000, 8]; give [channels, rows, columns], each from 1 to 65536, of at most 2147483648 values",
        ),
        (
            "name = \"net\"\ninput = [65536, 65536, 65536]\nlayers = []",
            "the input of `net` is [65536, 65536, 65536]; give [channels, rows, columns], each from 1 to 65536, of at most 2147483648 values",
        ),
        (
            "name = \"net\"\ninput = [3, 8.0, 8]\nlayers = []",
            "line 2, column 13: invalid type: floating point `8.0`, expected a whole number from 0",
        ),
        (
            "name = \"net\"\ninput = 3\nlayers = []",
            "line 2, column 9: invalid type: integer `3`, expected an array",
        ),
        (
            "name = 3\ninput = [3, 8, 8]\nlayers = []",
            "line 1, column 8: invalid type: integer `3`, expected a string",
        ),
        (
            "name = \"net\"\ninput = [3, 8, 8]\nlayers = []",
            "`net` ends in a map of shape [3, 8, 8]; add a Flatten, so that it ends in a vector of one value per class",
        ),
        (
            "name = \"net\"\ninput = [3, 8, 8]\nlayers = \"ReLU\"",
            r#"line 3, column 10: invalid type: string "ReLU", expected an array"#,
        ),
        (
            "name = \"net\"\nname = \"net\"\ninput = [3, 8, 8]\nlayers = []",
            "line 2, column 1: the key is given twice; remove one of them",
        ),
        (
            "name = \"net\ninput = [3, 8, 8]\nlayers = []",
            r#"line 1, column 12: invalid basic string, expected `"`"#,
        ),
        ("name = \"net\"\ninput = [3, 8, 8]\nlayers = [", "line 3, column 11: unclosed array, expected `]`"),
        ("", "line 1, column 1: missing key `name`"),
        (
            "name = \"net\"\ninput = [3, 8, 8]\nlayers = [\n    \"ReLU\"\n]",
            "`net` ends in a map of shape [3, 8, 8]; add a Flatten, so that it ends in a vector of one value per class",
        ),
        (
            "name = \"net\"\ninput = [3, 8, 8]\nlayers = [\n    \"Flatten\", { Linear = { out_features = 10 } },\n]\ninitial = 3",
            "line 6, column 11: invalid type: integer `3`, expected an array",
        ),
        (
            "name = \"net\"\ninput = [3, 8, 8]\nlayers = [\n    \"Flatten\", { Linear = { out_features = 10 } },\n]\ninitial = { parameter = \"weight\", rule = \"zeros\" }",
            "line 6, column 11: invalid type: table, expected an array",
        ),
        (
            "name = \"net\"\ninput = [3, 8, 8]\nlayers = [\n    { repeat = 10000, Sequential = [{ repeat = 10000, Sequential = [{ repeat = 10000, Sequential = [] }] }] }\n]",
            "`net` has more than 10000 layers, sequences and branches; repeat less",
        ),
        (
            "name = \"net\"\ninput = [3, 8, 8]\nlayers = [\n{ Conv2d = { out_channels = 65536, kernel_size = 1 } }, { Conv2d = { out_channels = 65536, kernel_size = 8 } }, \"Flatten\"\n]",
            "layer 1 of `net` (Conv2d 65536 k8 p0, input [65536, 8, 8]): its weight of shape [65536, 65536, 8, 8] has more than 2147483648 values; make it smaller",
        ),
        (
            "name = \"a\\nb\"\ninput = [3, 8, 8]\nlayers = []",
            r#"`a\nb` cannot be a network's name; give 1 to 64 characters, all on one line"#,
        ),
        (
            "name = \"\"\ninput = [3, 8, 8]\nlayers = [\"Flatten\"]",
            "`` cannot be a network's name; give 1 to 64 characters, all on one line",
        ),
        ("[[layers]]\nFoo = {}", "line 2, column 1: there is no layer `Foo`; give one of KINDS"),
        (
            "name = \"net\"\ninput = [3, 8, 8]\n[[layers]]\nname = \"a\"\nReLU = {}\n[[layers]]\nFlatten = {}\nFoo = {}",
            "line 8, column 1: unknown key `Foo` next to Flatten; arguments go into its table, { Flatten = { Foo = ... } }",
        ),
        (
            "name = \"net\"\r\ninput = [3, 8, 8]\r\nlayers = [\"Foo\"]\r\n",
            "line 3, column 11: there is no layer `Foo`; give one of KINDS",
        ),
        (
            "name = \"ü\"\ninput = [3, 8, 8]\nlayers = [\"Foo\"]",
            "line 3, column 11: there is no layer `Foo`; give one of KINDS",
        ),
    ];
    for (text, expected) in cases {
        told(text, expected);
    }
}

#[test]
fn wrong_entries() {
    let cases = [
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 3, dilation = 2 } }",
            "line 4, column 53: unknown key `dilation`, expected one of `out_channels`, `kernel_size`, `stride`, `padding`, `groups`, `bias`",
        ),
        (r#""Foo""#, "line 4, column 5: there is no layer `Foo`; give one of KINDS"),
        ("{ Foo = {} }", "line 4, column 7: there is no layer `Foo`; give one of KINDS"),
        (r#""conv2d""#, "line 4, column 5: there is no layer `conv2d`; did you mean Conv2d?"),
        ("{ BatchNorm = {} }", "line 4, column 7: there is no layer `BatchNorm`; did you mean BatchNorm2d?"),
        (
            r#""Conv2d""#,
            "line 4, column 5: Conv2d cannot stand alone; write { Conv2d = { out_channels = ... } }",
        ),
        ("{ Conv2d = {} }", "line 4, column 16: missing key `out_channels`"),
        (
            r#"{ Conv2d = { out_channels = "4", kernel_size = 3 } }"#,
            r#"line 4, column 33: invalid type: string "4", expected a whole number from 0"#,
        ),
        (
            "{ Conv2d = { out_channels = -4, kernel_size = 3 } }",
            "line 4, column 33: invalid value: integer `-4`, expected a whole number from 0",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = -3 } }",
            "line 4, column 50: invalid value: integer `-3`, expected a whole number from 0, or two as [rows, columns]",
        ),
        (
            "{ Conv2d = { out_channels = 0, kernel_size = 3 } }",
            "layer 0 of `net` (Conv2d 0 k3 p0, input [3, 8, 8]): out_channels is 0; give a number from 1 to 65536",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 0 } }",
            "layer 0 of `net` (Conv2d 4 p0, input [3, 8, 8]): kernel_size is 0; give a number from 1 to 65536",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 3, stride = 0 } }",
            "layer 0 of `net` (Conv2d 4 k3 s0 p0, input [3, 8, 8]): stride is 0; give a number from 1 to 65536",
        ),
        (
            "{ Conv2d = { out_channels = 4.0, kernel_size = 3 } }",
            "line 4, column 33: invalid type: floating point `4.0`, expected a whole number from 0",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 3.0 } }",
            "line 4, column 50: invalid type: floating point `3.0`, expected a whole number from 0, or two as [rows, columns]",
        ),
        (
            "{ Conv2d = { out_channels = 1000000000000000000, kernel_size = 3 } }",
            "layer 0 of `net` (Conv2d 1000000000000000000 k3 p0, input [3, 8, 8]): out_channels is 1000000000000000000; give a number from 1 to 65536",
        ),
        (
            "{ Conv2d = { out_channels = 18446744073709551615, kernel_size = 3 } }",
            "layer 0 of `net` (Conv2d 18446744073709551615 k3 p0, input [3, 8, 8]): out_channels is 18446744073709551615; give a number from 1 to 65536",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 18446744073709551615 } }",
            "layer 0 of `net` (Conv2d 4 k18446744073709551615 p0, input [3, 8, 8]): kernel_size is 18446744073709551615; give a number from 1 to 65536",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 99999999999999999999999999999999999999999999 } }",
            "line 4, column 50: the number is too large",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 1000000000000000000 } }",
            "layer 0 of `net` (Conv2d 4 k1000000000000000000 p0, input [3, 8, 8]): kernel_size is 1000000000000000000; give a number from 1 to 65536",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 3, padding = 1000000000000000000 } }",
            "layer 0 of `net` (Conv2d 4 k3 p1000000000000000000, input [3, 8, 8]): padding is 1000000000000000000; give a number from 0 to 65536",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = [3] } }",
            "line 4, column 50: invalid length 1, expected a whole number from 0, or two as [rows, columns]",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = [3, 3, 3] } }",
            "line 4, column 50: invalid length 3, expected a whole number from 0, or two as [rows, columns]",
        ),
        (
            r#"{ Conv2d = { out_channels = 4, kernel_size = "3" } }"#,
            r#"line 4, column 50: invalid type: string "3", expected a whole number from 0, or two as [rows, columns]"#,
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 9 } }",
            "layer 0 of `net` (Conv2d 4 k9 p0, input [3, 8, 8]): a kernel of 9 is larger than the 8 pixels with padding; give a smaller kernel_size or more padding",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 3, groups = 2 } }",
            "layer 0 of `net` (Conv2d 4 k3 p0 g2, input [3, 8, 8]): 3 channels to 4 cannot be divided into 2 groups; give a divisor of both numbers",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 3, groups = 3 } }",
            "layer 0 of `net` (Conv2d 4 k3 p0 g3, input [3, 8, 8]): 3 channels to 4 cannot be divided into 3 groups; give a divisor of both numbers",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 3, groups = 0 } }",
            "layer 0 of `net` (Conv2d 4 k3 p0 g0, input [3, 8, 8]): groups is 0; give a number from 1 to 65536",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 3, bias = 1 } }",
            "line 4, column 60: invalid type: integer `1`, expected true or false",
        ),
        ("{ Conv2d = 3 }", "line 4, column 16: invalid type: integer `3`, expected a table"),
        ("{ ReLU = true }", "line 4, column 14: invalid type: boolean `true`, expected a table"),
        ("{ ReLU = { inplace = true } }", "line 4, column 16: unknown key `inplace`; this table takes none"),
        ("{ repeat = 0, ReLU = {} }", "entry 0 of `net` is repeated 0 times; give a number from 1 to 10000"),
        (
            "{ repeat = 1000000000, ReLU = {} }",
            "entry 0 of `net` is repeated 1000000000 times; give a number from 1 to 10000",
        ),
        (
            "{ repeat = -1, ReLU = {} }",
            "line 4, column 16: invalid value: integer `-1`, expected a whole number from 0",
        ),
        (
            "{ repeat = 1e9, ReLU = {} }",
            "line 4, column 16: invalid type: floating point `1000000000.0`, expected a whole number from 0",
        ),
        (
            "{ repeat = 10000, Sequential = [{ repeat = 10000, ReLU = {} }] }",
            "`net` has more than 10000 layers, sequences and branches; repeat less",
        ),
        (
            "{ repeat = 10000, Sequential = [{ repeat = 100, Sequential = [] }] }",
            "`net` has more than 10000 layers, sequences and branches; repeat less",
        ),
        (
            r#"{ name = "a", repeat = 2, ReLU = {} }"#,
            "entry a of `net` has a name and is repeated; give the name to a Sequential around it",
        ),
        (
            "{ ReLU = {}, Tanh = {} }",
            "line 4, column 18: ReLU and Tanh in one table; give each a table of its own",
        ),
        (
            "{ ReLU = {}, stride = 2 }",
            "line 4, column 18: unknown key `stride` next to ReLU; arguments go into its table, { ReLU = { stride = ... } }",
        ),
        (
            "{ ReLU = {}, Foo = {} }",
            "line 4, column 18: unknown key `Foo` next to ReLU; arguments go into its table, { ReLU = { Foo = ... } }",
        ),
        (r#"{ name = "a" }"#, "line 4, column 5: a table without a layer; give it one, such as ReLU = {}"),
        ("{}", "line 4, column 5: a table without a layer; give it one, such as ReLU = {}"),
        (
            "3",
            "line 4, column 5: invalid type: integer `3`, expected the name of a layer, or a table such as { Linear = { out_features = 10 } }",
        ),
        (
            "[]",
            "line 4, column 5: invalid type: array, expected the name of a layer, or a table such as { Linear = { out_features = 10 } }",
        ),
        (
            r#"{ name = "a.b", ReLU = {} }"#,
            "`a.b` in `net` cannot be a layer's name; give 1 to 64 letters, digits, _ and -",
        ),
        (
            r#"{ name = "", ReLU = {} }"#,
            "`` in `net` cannot be a layer's name; give 1 to 64 letters, digits, _ and -",
        ),
        (
            r#"{ name = "a b", ReLU = {} }"#,
            "`a b` in `net` cannot be a layer's name; give 1 to 64 letters, digits, _ and -",
        ),
        ("{ name = 3, ReLU = {} }", "line 4, column 14: invalid type: integer `3`, expected a string"),
        (
            r#"{ name = "a\nb", ReLU = {} }"#,
            r#"`a\nb` in `net` cannot be a layer's name; give 1 to 64 letters, digits, _ and -"#,
        ),
        (
            r#"{ name = "a", BatchNorm2d = {} }, { name = "a", BatchNorm2d = {} }"#,
            "two layers of `net` are called a; give one of them another name",
        ),
        (
            r#"{ Sum = [[], "Flatten"] }"#,
            "the branches of sum in `net` have shapes [[3, 8, 8], [192]]: a Sum takes branches of one shape",
        ),
        (
            "{ Sum = [[], { MaxPool2d = { kernel_size = 2 } }] }",
            "the branches of sum in `net` have shapes [[3, 8, 8], [3, 4, 4]]: a Sum takes branches of one shape",
        ),
        (
            "{ Concat = [[], { MaxPool2d = { kernel_size = 2 } }] }",
            "the branches of concat in `net` have shapes [[3, 8, 8], [3, 4, 4]]: a Concat takes maps of one size, or vectors",
        ),
        (
            "{ Multiply = [[], { MaxPool2d = { kernel_size = 2 } }] }",
            "the branches of multiply in `net` have shapes [[3, 8, 8], [3, 4, 4]]: a Multiply takes branches of one shape, and single pixels of as many channels",
        ),
        (
            "{ Sum = [[]] }",
            "the branches of sum in `net` have shapes [[3, 8, 8]]: give it another branch, [] for the identity",
        ),
        (
            "{ Sum = [] }",
            "the branches of sum in `net` have shapes []: give two or more, [] for the identity",
        ),
        (r#"{ Sum = "ReLU" }"#, r#"line 4, column 13: invalid type: string "ReLU", expected an array"#),
        ("{ Sum = 3 }", "line 4, column 13: invalid type: integer `3`, expected an array"),
        (
            "{ Sum = [3] }",
            "line 4, column 14: invalid type: integer `3`, expected an array of layers, empty for the identity, or one layer",
        ),
        (
            r#"{ Sequential = "ReLU" }"#,
            r#"line 4, column 20: invalid type: string "ReLU", expected an array"#,
        ),
        ("{ Sequential = {} }", "line 4, column 20: invalid type: table, expected an array"),
        ("{ Concat = {} }", "line 4, column 16: invalid type: table, expected an array"),
        (
            "{ Linear = { out_features = 3 } }",
            "layer 0 of `net` (Linear 3, input [3, 8, 8]): it takes a vector; put a Flatten before it",
        ),
        (
            "{ MaxPool2d = { kernel_size = 2, padding = 2 } }",
            "layer 0 of `net` (MaxPool2d 2x2 p2, input [3, 8, 8]): padding is more than half of kernel_size; give less",
        ),
        (
            "{ MaxPool2d = { kernel_size = 9 } }",
            "layer 0 of `net` (MaxPool2d 9x9, input [3, 8, 8]): a kernel of 9 is larger than the 8 pixels with padding; give a smaller kernel_size or more padding",
        ),
        (
            "{ AdaptiveAvgPool2d = { output_size = 2 } }",
            "layer 0 of `net` (AdaptiveAvgPool2d 2, input [3, 8, 8]): output_size can only be 1; use AvgPool2d for other sizes",
        ),
        (
            "{ BatchNorm2d = { eps = nan } }",
            "layer 0 of `net` (BatchNorm2d, input [3, 8, 8]): eps is NaN; give a small number above 0, such as 1e-5",
        ),
        (
            "{ BatchNorm2d = { eps = inf } }",
            "layer 0 of `net` (BatchNorm2d, input [3, 8, 8]): eps is inf; give a small number above 0, such as 1e-5",
        ),
        (
            "{ BatchNorm2d = { eps = 0 } }",
            "layer 0 of `net` (BatchNorm2d, input [3, 8, 8]): eps is 0.0; give a small number above 0, such as 1e-5",
        ),
        (
            "{ BatchNorm2d = { eps = 1e-300 } }",
            "layer 0 of `net` (BatchNorm2d, input [3, 8, 8]): eps is 1e-300; give a small number above 0, such as 1e-5",
        ),
        (
            r#"{ BatchNorm2d = { eps = "x" } }"#,
            r#"line 4, column 29: invalid type: string "x", expected a number"#,
        ),
        (
            "{ BatchNorm2d = { momentum = nan } }",
            "layer 0 of `net` (BatchNorm2d, input [3, 8, 8]): momentum is NaN; give a number from 0 to 1",
        ),
        (
            "{ BatchNorm2d = { momentum = 2 } }",
            "layer 0 of `net` (BatchNorm2d, input [3, 8, 8]): momentum is 2.0; give a number from 0 to 1",
        ),
        (
            "{ Dropout = { p = nan } }",
            "layer 0 of `net` (Dropout NaN, input [3, 8, 8]): p is NaN; give a probability below 1, such as 0.5",
        ),
        (
            "{ Dropout = { p = 1 } }",
            "layer 0 of `net` (Dropout 1.0, input [3, 8, 8]): p is 1.0; give a probability below 1, such as 0.5",
        ),
        (
            "{ Dropout = { p = 0.999999999999 } }",
            "layer 0 of `net` (Dropout 0.999999999999, input [3, 8, 8]): p is 0.999999999999; give a probability below 1, such as 0.5",
        ),
        (
            "{ Dropout = { p = -0.5 } }",
            "layer 0 of `net` (Dropout -0.5, input [3, 8, 8]): p is -0.5; give a probability below 1, such as 0.5",
        ),
        (
            "{ Scale = { factor = inf } }",
            "layer 0 of `net` (Scale inf, input [3, 8, 8]): factor is inf; give a finite number",
        ),
        ("{ Scale = {} }", "line 4, column 15: missing key `factor`"),
        (
            "{ Scale = { factor = nan } }",
            "layer 0 of `net` (Scale NaN, input [3, 8, 8]): factor is NaN; give a finite number",
        ),
        (
            "{ LeakyReLU = { negative_slope = nan } }",
            "layer 0 of `net` (LeakyReLU NaN, input [3, 8, 8]): negative_slope is NaN; give a finite number",
        ),
        (
            r#"{ GELU = { approximate = "erf" } }"#,
            "line 4, column 30: unknown value `erf`, expected `none` or `tanh`",
        ),
        ("{ GELU = { approximate = true } }", "line 4, column 30: expected a string or a table"),
        (
            "{ PadChannels = { before = 100000 } }",
            "layer 0 of `net` (PadChannels 100000+0, input [3, 8, 8]): before is 100000; give a number from 0 to 65536",
        ),
        (
            "{ Subsample = { stride = 0 } }",
            "layer 0 of `net` (Subsample, input [3, 8, 8]): stride is 0; give a number from 1 to 65536",
        ),
        (
            r#""Flatten", "BatchNorm2d""#,
            "layer 1 of `net` (BatchNorm2d, input [192]): it takes a map of [channels, rows, columns]; put it before the Flatten",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 3, kernel_size = 3 } }",
            "line 4, column 53: the key is given twice; remove one of them",
        ),
        (
            "{ Conv2d = { out_channels = 4, kernel_size = 3 }",
            "line 5, column 14: extra comma in inline table, expected `=`",
        ),
        (
            r#"{ name = "a", name = "b", ReLU = {} }"#,
            "line 4, column 19: the key is given twice; remove one of them",
        ),
        (
            "{ Sum = [[], []], Sum = [[],[]] }",
            "line 4, column 23: the key is given twice; remove one of them",
        ),
    ];
    for (entry, expected) in cases {
        told(&around(entry, ""), expected);
    }
}

#[test]
fn wrong_rules() {
    let cases = [
        (
            r#"{ parameter = "weight", rule = "zeros", layer = "Conv2d" }"#,
            "rule 1 of `initial` in `net` matches no parameter; check its layer, parameter and path",
        ),
        (
            r#"{ parameter = "weights", rule = "zeros" }"#,
            "rule 1 of `initial` in `net` matches no parameter; check its layer, parameter and path",
        ),
        (
            r#"{ parameter = "weight", rule = "dirac" }"#,
            "the rule for the initial values of 2.weight in `net` does not suit it: it is for weights of convolutions",
        ),
        (
            r#"{ parameter = "bias", rule = "xavier_normal" }"#,
            "the rule for the initial values of 2.bias in `net` does not suit it: it is for weights of convolutions and linear layers",
        ),
        (
            r#"{ parameter = "weight", rule = "he" }"#,
            "line 8, column 36: unknown value `he`, expected one of `zeros`, `ones`, `constant`, `normal`, `dirac`, `partial_dirac`, `whitening`, `kaiming_normal`, `kaiming_uniform`, `xavier_uniform`, `xavier_normal`",
        ),
        (
            r#"{ parameter = "weight", rule = "kaiming_normal" }"#,
            "line 8, column 36: the rule has arguments; write it as a table, such as { kaiming_normal = {} } or { constant = 0.1 }",
        ),
        (
            r#"{ parameter = "weight", rule = { kaiming_normal = { mode = "out" } } }"#,
            "line 8, column 64: unknown value `out`, expected `fan_in` or `fan_out`",
        ),
        (
            r#"{ parameter = "weight", rule = { kaiming_normal = { mod = "out" } } }"#,
            "line 8, column 57: unknown key `mod`, expected one of `a`, `mode`, `nonlinearity`",
        ),
        (
            r#"{ parameter = "weight", rule = { kaiming_normal = { a = inf } } }"#,
            "the rule for the initial values of 2.weight in `net` does not suit it: its a is inf; give a finite number",
        ),
        (
            r#"{ parameter = "weight", rule = { kaiming_normal = { a = nan } } }"#,
            "the rule for the initial values of 2.weight in `net` does not suit it: its a is NaN; give a finite number",
        ),
        (
            r#"{ parameter = "weight", rule = { normal = -1 } }"#,
            "the rule for the initial values of 2.weight in `net` does not suit it: -1.0 is not a standard deviation; give 0 or more",
        ),
        (
            r#"{ parameter = "weight", rule = { normal = nan } }"#,
            "the rule for the initial values of 2.weight in `net` does not suit it: NaN is not a standard deviation; give 0 or more",
        ),
        (
            r#"{ parameter = "weight", rule = { constant = 1e300 } }"#,
            "the rule for the initial values of 2.weight in `net` does not suit it: 1e300 is not a finite number",
        ),
        (
            r#"{ parameter = "weight", rule = "constant" }"#,
            "line 8, column 36: the rule has arguments; write it as a table, such as { kaiming_normal = {} } or { constant = 0.1 }",
        ),
        (
            r#"{ parameter = "weight", rule = { zeros = 1 } }"#,
            "line 8, column 46: expected table, found integer",
        ),
        (r#"{ parameter = "weight" }"#, "line 8, column 5: missing key `rule`"),
        (r#"{ rule = "zeros" }"#, "line 8, column 5: missing key `parameter`"),
        (
            r#"{ parameter = "weight", rule = "zeros", x = 1 }"#,
            "line 8, column 45: unknown key `x`, expected one of `layer`, `parameter`, `path`, `rule`",
        ),
        (
            r#"{ parameter = "weight", rule = {} }"#,
            "line 8, column 36: expected a table with exactly one key",
        ),
        (
            r#"{ parameter = "weight", rule = { zeros = {}, ones = {} } }"#,
            "line 8, column 36: expected a table with exactly one key",
        ),
        (r#"{ parameter = "weight", rule = 3 }"#, "line 8, column 36: expected a string or a table"),
        ("3", "line 8, column 5: invalid type: integer `3`, expected a table"),
    ];
    for (rule, expected) in cases {
        told(&around(r#""ReLU""#, rule), expected);
    }
}

/// Whitening needs patches of images.
#[test]
fn whitening_is_for_what_reads_the_images() {
    let network = |layers: &str| {
        let text = format!(
            "name = \"net\"\ninput = [1, 2, 2]\nlayers = [{layers}, \"Flatten\"]\n\
             initial = [{{ parameter = \"weight\", rule = {{ whitening = {{}} }} }}]"
        );
        Network::from_toml(&text).and_then(|network| network.graph()).map_err(|error| error.to_string())
    };
    let convolution = |kernel: usize, padding: usize| {
        let out_channels = 2 * kernel * kernel;
        format!(
            "{{ Conv2d = {{ out_channels = {out_channels}, kernel_size = {kernel}, padding = {padding} }} }}"
        )
    };
    assert!(network(&convolution(2, 0)).is_ok());
    let error = network(&format!("\"ReLU\", {}", convolution(2, 0))).unwrap_err();
    assert!(error.contains("it is for a convolution that reads the images"), "{error}");
    let error = network(&convolution(3, 1)).unwrap_err();
    assert!(error.contains("its kernel is larger than the images"), "{error}");
}

/// A few bytes that would exhaust memory or the stack are refused at once, before anything grows.
#[test]
fn small_files_of_large_networks() {
    let deep = "arrays and tables are nested too deeply; nest them less";
    let many = "`net` has more than 10000 layers, sequences and branches; repeat less";
    let nested = |opening: &str, times: usize, closing: &str| {
        format!("{}{}", opening.repeat(times), closing.repeat(times))
    };
    let cases = [
        (nested("[", 10_000, "]"), deep),
        (nested("{ Sequential = [", 10_000, "] }"), deep),
        (nested("{ Sum = [[], [", 10_000, "]] }"), deep),
        // Twice at each of 20 levels: a million layers.
        (
            (0..20)
                .fold("\"ReLU\"".to_owned(), |inner, _| format!("{{ repeat = 2, Sequential = [{inner}] }}")),
            many,
        ),
        // No layer at all, but 10 to the power of 40 times.
        (nested("{ repeat = 10000, Sequential = [", 10, "] }"), many),
        (format!("{{ repeat = 10000, Sum = [{}] }}", "[], ".repeat(10_000)), many),
        (
            format!("{{ name = \"{}\", Sequential = [\"ReLU\"] }}", "a".repeat(1_000_000)),
            "cannot be a layer's name",
        ),
        (format!("\"{}\"", "ReLU".repeat(100_000)), "there is no layer `ReLU"),
        (
            format!("{{ Sum = [{} \"Flatten\"] }}", "[], ".repeat(9000)),
            "and 8993 more: a Sum takes branches of one shape",
        ),
    ];
    let begun = std::time::Instant::now();
    for (entry, expected) in cases {
        let found = message(&around(&entry, ""));
        assert!(found.contains(expected), "{found}");
        assert!(found.len() < 600 && !found.contains('\n'), "{found}");
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

/// Shapes and counts at the limits: as many values as allowed, and products that overflow a machine word.
#[test]
fn sizes_at_the_limits() {
    let graph = |entries: &str| {
        let text = format!("name = \"net\"\ninput = [32768, 256, 256]\nlayers = [{entries}, \"Flatten\"]\n");
        Network::from_toml(&text).map(|network| network.graph().unwrap())
    };
    // 2^31 values, of 2^31 products each at most.
    let depthwise = "{ Conv2d = { out_channels = 32768, kernel_size = 255, padding = 127, groups = 32768 } }";
    let macs = graph(depthwise).unwrap().macs();
    assert_eq!(macs, (1 << 31) * 255 * 255);
    let all = r#"{ Conv2d = { out_channels = 256, kernel_size = 256 } }, { Conv2d = { out_channels = 1, kernel_size = 1 } }"#;
    assert!(graph(all).unwrap_err().to_string().contains("its weight of shape [256, 32768, 256, 256]"));
    // Channels beyond 2^16, then a kernel as large as allowed: 2^16 times 2^16 times 2^17 times 2^16 weights.
    let wide = r#""AdaptiveAvgPool2d", { PadChannels = { before = 65536, after = 65536 } },
        { Conv2d = { out_channels = 65536, kernel_size = 65536, stride = 65536, padding = 65536 } }"#;
    assert!(
        graph(wide).unwrap_err().to_string().contains("its weight of shape [65536, 163840, 65536, 65536]")
    );
    let padded = "{ Conv2d = { out_channels = 65536, kernel_size = 1, padding = 65536 } }";
    assert!(graph(padded).unwrap_err().to_string().contains("its output of shape [65536, 131328, 131328]"));
    let doubled = "{ Concat = [[], []] }";
    assert!(graph(doubled).unwrap_err().to_string().contains("its output of shape [65536, 256, 256]"));
    // A kernel as large as the map: nearly 2^62 products, five times over.
    let largest = "{ repeat = 5, Conv2d = { out_channels = 1, kernel_size = 46001, padding = 23000 } }";
    let text = format!("name = \"net\"\ninput = [1, 46000, 46000]\nlayers = [{largest}, \"Flatten\"]\n");
    let graph = Network::from_toml(&text).unwrap().graph().unwrap();
    assert_eq!(graph.macs(), usize::MAX);
    assert_eq!(graph.table()[4].macs, 46000 * 46000 * 46001 * 46001);
}

/// The deepest valid description can also be read back.
#[test]
fn nesting() {
    let inner = || Entry::from(Conv2d::new(3, [1, 3]).padding([0, 1]));
    let nested = |depth: usize| {
        let entry = (0..depth)
            .fold(inner(), |inner, _| Entry::new(Part::Sum(vec![[inner].into(), Branch::default()])));
        Network::new("net", [3, 8, 8], [entry, Flatten {}.into()])
    };
    let deepest = nested(24);
    assert_eq!(Network::from_toml(&deepest.to_toml()), Ok(deepest));
    let expected = "entry 0 of `net` lies in more than 24 sequences and compositions; nest them less";
    assert_eq!(nested(25).graph().unwrap_err().to_string(), expected);
}

#[test]
fn a_syntax_error_has_its_place() {
    let text = "# Zahlen: ä\r\nname = \"ä\"\r\ninput = [3, 8, 8]\r\nlayers = [\r\n    \"Flatten\", \"Linaer\",\r\n]\r\n";
    let expected = NetworkError::Syntax {
        line: 5,
        column: 16,
        message: "there is no layer `Linaer`; did you mean Linear?".to_owned(),
    };
    assert_eq!(Network::from_toml(text), Err(expected));
}

/// Every layer with and without arguments, and every form of an entry and a rule.
#[test]
fn a_description_is_read_back_as_it_was_written() {
    let conv = Conv2d::new(8, [3, 5]).stride([2, 1]).padding([1, 2]).groups(2).bias(false);
    let max = MaxPool2d { stride: Some(Pair([1, 2])), padding: Pair::ONE, ..MaxPool2d::new([2, 3]) };
    let avg = AvgPool2d {
        stride: Some(Pair::ONE),
        padding: Pair::ONE,
        count_include_pad: false,
        ..AvgPool2d::new(3)
    };
    let norm = BatchNorm2d { eps: 1e-3, momentum: 0.01, weight: false, bias: false };
    let gelu = Gelu { approximate: GeluApproximation::Tanh };
    let squeeze = Entry::new(Part::Multiply(vec![
        Branch::default(),
        [Layer::AdaptiveAvgPool2d(Default::default()).into(), Sigmoid {}.into()].into(),
    ]));
    let layers = [
        Entry::from(Conv2d::new(8, 1)).named("a_B-0"),
        conv.into(),
        norm.into(),
        BatchNorm2d::default().into(),
        Relu {}.into(),
        Relu6 {}.into(),
        LeakyRelu { negative_slope: 0.2 }.into(),
        LeakyRelu::default().into(),
        gelu.into(),
        Gelu::default().into(),
        Silu {}.into(),
        Tanh {}.into(),
        max.into(),
        MaxPool2d::new(2).into(),
        avg.into(),
        AvgPool2d::new(1).into(),
        Dropout::default().into(),
        Dropout { p: 0.25 }.into(),
        Scale { factor: -1e-7 }.into(),
        Subsample { stride: Pair([1, 2]) }.into(),
        PadChannels { before: 0, after: 8 }.into(),
        PadChannels { before: 0, after: 0 }.into(),
        squeeze.repeat(2),
        Entry::new(Part::Sum(vec![Branch::default(), [Relu {}.into()].into(), Branch::default()]))
            .named("sum"),
        Entry::new(Part::Concat(vec![
            [Entry::sequential([])].into(),
            [Relu {}.into(), Tanh {}.into()].into(),
        ])),
        Entry::sequential([Entry::from(BatchNorm2d::default()).repeat(3)]).repeat(2),
        Flatten {}.into(),
        Linear::new(10).into(),
        Entry::from(Linear { out_features: 5, bias: false }).named("fc"),
    ];
    let classes: Vec<&str> = layers
        .iter()
        .filter_map(|entry| match &entry.part {
            Part::Layer(layer) => Some(layer.class()),
            _ => None,
        })
        .chain(["AdaptiveAvgPool2d", "Sigmoid"])
        .collect();
    assert!(Layer::CLASSES.iter().all(|class| classes.contains(class)), "a class is missing here");

    let mut network = Network::new("everything", [3, 32, 32], layers);
    network.about = "With \"quotes\", a \\ and\na second line.".to_owned();
    let kaiming = Kaiming { a: 0.5, mode: Fan::FanOut, nonlinearity: Nonlinearity::Tanh };
    let rules = [
        Rule::Zeros,
        Rule::Ones,
        Rule::Constant(0.1),
        Rule::Normal(0.02),
        Rule::KaimingNormal(kaiming),
        Rule::KaimingUniform(Kaiming::default()),
        Rule::XavierUniform,
        Rule::XavierNormal,
        Rule::Dirac,
    ];
    network.initial = rules
        .map(|rule| InitialRule {
            layer: Some("Conv2d".to_owned()),
            parameter: "weight".to_owned(),
            path: Some("a_*".to_owned()),
            rule,
        })
        .to_vec();
    network.initial.push(InitialRule {
        layer: None,
        parameter: "bias".to_owned(),
        path: None,
        rule: Rule::Zeros,
    });
    let text = network.to_toml();
    assert_eq!(Network::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}")), network);
}

/// Files that come with the program, damaged: numbers at and beyond every limit, words swapped, text truncated or cut out. Whatever can be read
/// is a network with all that follows from it; whatever cannot gives an error of one line.
#[test]
fn damaged_files() {
    let look = |text: &str| match Network::from_toml(text) {
        Ok(network) => {
            let graph = network.graph().unwrap();
            assert_eq!(graph.table().len() + 1, graph.nodes.len());
            assert!(graph.macs() >= graph.table().iter().map(|row| row.macs).max().unwrap_or(0));
            assert_eq!(Network::from_toml(&network.to_toml()), Ok(network), "{text}");
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 1000 && !message.contains('\n'), "{message}");
        }
    };
    for name in ["lenet", "resnet20", "densenet_bc_100_12", "senet18"] {
        let text = Network::shipped_toml(name).unwrap();
        let is_number = |at: &usize| {
            let bytes = text.as_bytes();
            bytes[*at].is_ascii_digit() && matches!(bytes[at - 1], b' ' | b'[')
        };
        for start in (1..text.len()).filter(is_number) {
            let end = start + text[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
            for value in [
                "0",
                "1",
                "-1",
                "2.5",
                "nan",
                "65536",
                "65537",
                "9223372036854775807",
                "18446744073709551615",
                "[]",
                "{}",
            ] {
                look(&format!("{}{value}{}", &text[..start], &text[end..]));
            }
        }
        for at in (0..text.len()).step_by(29) {
            look(&text[..at]);
            look(&format!("{}{}", &text[..at], &text[(at + 5).min(text.len())..]));
            look(&format!("{}\"ReLU\", {}", &text[..at], &text[at..]));
        }
        for (word, other) in [
            ("Sum", "Concat"),
            ("Concat", "Multiply"),
            ("Multiply", "Sum"),
            ("Conv2d", "Linear"),
            ("[]", "[[]]"),
        ] {
            look(&text.replace(word, other));
        }
    }
}
