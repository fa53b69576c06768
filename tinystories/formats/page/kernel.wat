;; The three loops in which the page spends its time, in WebAssembly with SIMD (four float32 at once).
;;
;; model.js has the same loops in plain JavaScript, with the same sums in the same order, for
;; browsers without SIMD. kernel.js has the assembled bytes, and the command that makes them.
;;
;; Parameters are addresses in bytes; $rows, $columns, $count and $width count numbers.
(module
  (import "env" "memory" (memory 1))

  ;; y = scale * (W x), row by row: a linear layer. W is int8 with one float32 scale per row, and
  ;; has a multiple of 16 columns. Sixteen weights are loaded and widened to float32 at once;
  ;; sixteen running sums, four in each of a, b, c and d, are added up at the end of a row.
  (func (export "matvec")
    (param $weights i32) (param $scales i32) (param $x i32) (param $y i32)
    (param $rows i32) (param $columns i32)
    (local $column i32) (local $x_end i32) (local $y_end i32)
    (local $sixteen v128) (local $low v128) (local $high v128)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (local.set $x_end (i32.add (local.get $x) (i32.shl (local.get $columns) (i32.const 2))))
    (local.set $y_end (i32.add (local.get $y) (i32.shl (local.get $rows) (i32.const 2))))
    (loop $next_row
      (local.set $a (v128.const f32x4 0 0 0 0))
      (local.set $b (local.get $a))
      (local.set $c (local.get $a))
      (local.set $d (local.get $a))
      (local.set $column (local.get $x))
      (loop $next_columns
        (local.set $sixteen (v128.load (local.get $weights)))
        (local.set $low (i16x8.extend_low_i8x16_s (local.get $sixteen)))
        (local.set $high (i16x8.extend_high_i8x16_s (local.get $sixteen)))
        (local.set $a (f32x4.add (local.get $a) (f32x4.mul
          (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $low)))
          (v128.load (local.get $column)))))
        (local.set $b (f32x4.add (local.get $b) (f32x4.mul
          (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $low)))
          (v128.load offset=16 (local.get $column)))))
        (local.set $c (f32x4.add (local.get $c) (f32x4.mul
          (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $high)))
          (v128.load offset=32 (local.get $column)))))
        (local.set $d (f32x4.add (local.get $d) (f32x4.mul
          (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $high)))
          (v128.load offset=48 (local.get $column)))))
        (local.set $weights (i32.add (local.get $weights) (i32.const 16)))
        (local.set $column (i32.add (local.get $column) (i32.const 64)))
        (br_if $next_columns (i32.lt_u (local.get $column) (local.get $x_end))))
      (local.set $a (f32x4.add
        (f32x4.add (local.get $a) (local.get $c))
        (f32x4.add (local.get $b) (local.get $d))))
      (f32.store (local.get $y) (f32.mul
        (f32.load (local.get $scales))
        (f32.add
          (f32.add (f32x4.extract_lane 0 (local.get $a)) (f32x4.extract_lane 2 (local.get $a)))
          (f32.add (f32x4.extract_lane 1 (local.get $a)) (f32x4.extract_lane 3 (local.get $a))))))
      (local.set $scales (i32.add (local.get $scales) (i32.const 4)))
      (local.set $y (i32.add (local.get $y) (i32.const 4)))
      (br_if $next_row (i32.lt_u (local.get $y) (local.get $y_end)))))

  ;; y[t] = q . k[t]: the scores of one attention head. The keys lie $stride bytes apart; the width
  ;; is a multiple of 4.
  (func (export "scores")
    (param $q i32) (param $k i32) (param $y i32)
    (param $count i32) (param $width i32) (param $stride i32)
    (local $at i32) (local $end i32) (local $y_end i32) (local $sum v128)
    (local.set $end (i32.shl (local.get $width) (i32.const 2)))
    (local.set $y_end (i32.add (local.get $y) (i32.shl (local.get $count) (i32.const 2))))
    (loop $next_key
      (local.set $sum (v128.const f32x4 0 0 0 0))
      (local.set $at (i32.const 0))
      (loop $next_four
        (local.set $sum (f32x4.add (local.get $sum) (f32x4.mul
          (v128.load (i32.add (local.get $q) (local.get $at)))
          (v128.load (i32.add (local.get $k) (local.get $at))))))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br_if $next_four (i32.lt_u (local.get $at) (local.get $end))))
      (f32.store (local.get $y) (f32.add
        (f32.add (f32x4.extract_lane 0 (local.get $sum)) (f32x4.extract_lane 2 (local.get $sum)))
        (f32.add (f32x4.extract_lane 1 (local.get $sum)) (f32x4.extract_lane 3 (local.get $sum)))))
      (local.set $k (i32.add (local.get $k) (local.get $stride)))
      (local.set $y (i32.add (local.get $y) (i32.const 4)))
      (br_if $next_key (i32.lt_u (local.get $y) (local.get $y_end)))))

  ;; y = sum over t of p[t] * v[t]: what one attention head passes on, four numbers after the others.
  (func (export "mix")
    (param $p i32) (param $v i32) (param $y i32)
    (param $count i32) (param $width i32) (param $stride i32)
    (local $weight i32) (local $value i32) (local $p_end i32) (local $y_end i32) (local $sum v128)
    (local.set $p_end (i32.add (local.get $p) (i32.shl (local.get $count) (i32.const 2))))
    (local.set $y_end (i32.add (local.get $y) (i32.shl (local.get $width) (i32.const 2))))
    (loop $next_four
      (local.set $sum (v128.const f32x4 0 0 0 0))
      (local.set $weight (local.get $p))
      (local.set $value (local.get $v))
      (loop $next_value
        (local.set $sum (f32x4.add (local.get $sum) (f32x4.mul
          (v128.load32_splat (local.get $weight))
          (v128.load (local.get $value)))))
        (local.set $weight (i32.add (local.get $weight) (i32.const 4)))
        (local.set $value (i32.add (local.get $value) (local.get $stride)))
        (br_if $next_value (i32.lt_u (local.get $weight) (local.get $p_end))))
      (v128.store (local.get $y) (local.get $sum))
      (local.set $v (i32.add (local.get $v) (i32.const 16)))
      (local.set $y (i32.add (local.get $y) (i32.const 16)))
      (br_if $next_four (i32.lt_u (local.get $y) (local.get $y_end))))))
