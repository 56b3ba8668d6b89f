// What ms-python.debugpy does with a launch, as far as other extensions can see:
// python is set, a string, and the adapter is debugpy's own, run by the interpreter
// whatever python is changed to.
'use strict';

const vscode = require('vscode');

/** @param {vscode.ExtensionContext} context */
function activate(context) {
	const interpreter = () => vscode.workspace.getConfiguration('python').get('defaultInterpreterPath', 'python3');
	context.subscriptions.push(
		vscode.debug.registerDebugConfigurationProvider('debugpy', {
			resolveDebugConfiguration(_folder, c) {
				c.python ??= interpreter();
				c.debugAdapterPython ??= interpreter();
				c.debugLauncherPython ??= interpreter(); // not c.python: the launcher is debugpy's own
				return c;
			},
			resolveDebugConfigurationWithSubstitutedVariables(folder, c) {
				c.cwd ??= folder?.uri.fsPath;
				c.env ??= {};
				c.console ??= 'integratedTerminal';
				c.redirectOutput ??= c.console === 'internalConsole';
				c.workspaceFolder = folder?.uri.fsPath;
				return c;
			},
		}),
		vscode.debug.registerDebugAdapterDescriptorFactory('debugpy', {
			createDebugAdapterDescriptor: session => new vscode.DebugAdapterExecutable(session.configuration.debugAdapterPython, ['-m', 'debugpy.adapter']),
		}),
	);
}

module.exports = { activate };
