/* States to begin with: one for each theorem and for each way in which it fails. */
globalThis.Explorer.presets = [
 {
  "key": "global",
  "title": "Global convergence: equal scores, acute constraints, a start in a wrong direction",
  "words": "Every start leads to Wₘₘ (global convergence). The start is far off; the margins only rise.",
  "state": {
   "tokens": [
    [
     [-0.77, 0.9],
     [1.59, -0.6],
     [-0.85, -0.6]
    ],
    [
     [-0.17, -0.9],
     [-1.25, 0.6],
     [0.28, 0.6]
    ]
   ],
   "queries": [
    [-0.77, -0.78],
    [0.78, -0.33]
   ],
   "labels": [1, -1],
   "decoder": [0.0, 1.0],
   "W0": [2.19, -1.05, 2.98, -0.08],
   "rule": "NGD",
   "size": 0.1,
   "loss": "logistic"
  }
 },
 {
  "key": "polyak",
  "title": "Polyak's steps: their length settles by itself",
  "words": "Polyak's effective step tends to theta times the norm of Wₘₘ, where the residual settles.",
  "state": {
   "tokens": [
    [
     [-0.79, 1.07],
     [-1.54, -0.4],
     [-0.73, -0.47]
    ],
    [
     [0.48, 0.92],
     [0.81, -1.18],
     [-0.99, -0.59]
    ]
   ],
   "queries": [
    [0.63, 1.17],
    [-1.09, 0.74]
   ],
   "labels": [1, -1],
   "decoder": [1.0, 0.4],
   "W0": [0.0, 0.0, 0.0, 0.0],
   "rule": "Polyak",
   "size": 0.5,
   "loss": "logistic"
  }
 },
 {
  "key": "runner",
  "title": "A runner-up wins: the attention settles on another token",
  "words": "The output does not beat the runner-up at the start, so W turns to the max-margin matrix of another choice of tokens.",
  "state": {
   "tokens": [
    [
     [0.79, -0.19],
     [-1.46, -0.57],
     [-0.68, -1.59]
    ],
    [
     [1.59, -0.07],
     [-0.91, -1.12],
     [-1.41, 0.96]
    ]
   ],
   "queries": [
    [0.56, 0.5],
    [0.43, 0.07]
   ],
   "labels": [1, -1],
   "decoder": [1.0, 0.4],
   "W0": [0.0, 0.0, 0.0, 0.0],
   "rule": "NGD",
   "size": 0.1,
   "loss": "logistic"
  }
 },
 {
  "key": "frozen",
  "title": "Frozen out: one sequence is left waiting",
  "words": "From a large start in a wrong direction one sequence's gradient is exponentially small, and the other takes all steps.",
  "state": {
   "tokens": [
    [
     [-0.34, 0.9],
     [0.57, -0.6],
     [0.18, -0.6]
    ],
    [
     [1.21, -0.9],
     [0.57, 0.6],
     [-0.87, 0.6]
    ]
   ],
   "queries": [
    [0.89, -1.16],
    [0.5, -1.2]
   ],
   "labels": [1, -1],
   "decoder": [0.0, 1.0],
   "W0": [-0.23, -1.83, -6.29, -2.38],
   "rule": "NGD",
   "size": 0.1,
   "loss": "logistic"
  }
 },
 {
  "key": "infeasible",
  "title": "Infeasible: no matrix separates, with its certificate",
  "words": "Positive weights with which the constraints add up to zero prove that no W separates the tokens.",
  "state": {
   "tokens": [
    [
     [-0.75, 0.03],
     [-1.53, 1.32],
     [-0.5, 0.62]
    ],
    [
     [-1.22, -0.97],
     [0.83, 0.65],
     [0.34, -0.35]
    ],
    [
     [0.43, 1.3],
     [1.04, 0.93],
     [-0.17, -0.16]
    ]
   ],
   "queries": [
    [0.96, -0.54],
    [0.08, -0.68],
    [-0.13, -0.63]
   ],
   "labels": [
    1,
    -1,
    1
   ],
   "decoder": [1.0, 0.4],
   "W0": [0, 0, 0, 0],
   "rule": "NGD",
   "size": 0.1,
   "loss": "logistic"
  }
 },
 {
  "key": "period",
  "title": "Period two: a step a little beyond the edge h*",
  "words": "The size of the residual alternates between two values, and the direction still converges.",
  "state": {
   "tokens": [
    [
     [0.74, -0.8],
     [-0.98, -0.56],
     [-1.3, 1.39]
    ],
    [
     [-0.43, -1.04],
     [-1.6, -1.41],
     [-0.91, -0.26]
    ]
   ],
   "queries": [
    [0.24, 1.15],
    [0.94, -0.62]
   ],
   "labels": [1, -1],
   "decoder": [1.0, 0.4],
   "W0": [0.0, 0.0, 0.0, 0.0],
   "rule": "NGD",
   "size": 2.772,
   "loss": "logistic"
  }
 }
];
