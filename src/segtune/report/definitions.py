"""Definitions of the numbers in a report, shown at the end of the page."""

DEFINITIONS = (
    "Dice: per slice 2 |A and B| / (|A| + |B|) at a threshold of 0.5. It is undefined if both masks are empty, and 0 if one "
    "mask is. A patient's Dice is the mean over its slices, and a run's Dice is the mean over its patients, after the last "
    "epoch.",
    "Dice of a configuration: for each patient the mean over the runs that scored it, then the mean over patients. Its t "
    "interval has the variance s² / P of P patients and, because a run moves all its patients together, the variance between "
    "runs divided by the number of runs if an F test gives a hint of it (p < 0.4; for a difference p < 0.3; method of moments, "
    "degrees of freedom by Satterthwaite).",
    "The test over runs uses one variance between runs for all configurations if Bartlett's test gives no hint that their "
    "variances differ (p > 0.5). Otherwise the variance is estimated for each configuration, which is imprecise with three "
    "seeds.",
    "A difference is paired over the patients that both sides have scored, and over configurations that are equal in "
    "everything else.",
    "Gap, roughness, epochs to 90 % and curves are computed from history.csv, where Dice is the mean over slices.",
    "Roughness: mean |second difference| of a curve divided by its range. Epochs to 90 %: the first epoch that reaches 90 % of "
    "the run's own best validation Dice.",
    "Penalty / loss: (train_loss - train_data_loss) / train_data_loss in the first epoch. Norm of the weights: the L2 norm of "
    "all kernels after the last epoch.",
    "In mm and ml: a case is one volume of a patient (ED, ES, or another frame, visit or sequence). It is scored in 3-D over "
    "its slices, on the network's grid, after the last epoch. A patient's value is the mean over its cases, then over the runs "
    "that scored it; a configuration's value is the mean over its patients. Counts are of the cases of all runs. This Dice is "
    "computed on whole cases, so large slices weigh more; in the Dice that ranks configurations all slices weigh the same.",
    "HD, HD95: maximum, or 95th percentile, of the distances between the boundaries; the larger value of both directions. "
    "ASSD: mean of all these distances. Surface Dice: share of both boundaries that lies within the tolerance of the other "
    "boundary. Volume: pixels times pixel area times slice distance. Stroke volume: EDV - ESV. Ejection fraction (EF): stroke "
    "volume / EDV, 0 if nothing is predicted at ED.",
    "Agreement: error = predicted - expert's value, one per patient: the mean over the runs that scored it, since these are "
    "not independent. Bias: mean error over patients. Limits: bias ± 1.96 sd over patients (Bland and Altman 1986), with exact "
    "95 % intervals for normal errors (Carkeet 2015). The errors of a single run vary by the sd of runs in addition.",
    "Stability of ranks: 1,000 bootstrap draws of patients, and of the runs of each fold (seed 0).",
    "The best epoch is selected on the same validation data, so its Dice is optimistic. Figures mark it; no test uses it.",
)
